"""Runs in a real MLflow store: nothing is lost, nothing is written twice, what is finished stays as it is."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from mlflow.entities import Run

from spn.config import InputError
from spn.provenance import Recipe, recipe_digest
from spn.tracking import (
    Experiment,
    StageRun,
    create_experiment,
    load_experiment,
    record_chain,
    record_evaluation,
)

NUM_PROCESSES = 6
CURVE = "train_bits_per_dim_estimate"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("store")
    return create_experiment(f"sqlite:///{folder}/mlflow.db", "digits", folder / "experiment.json")


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> str:
    """A name of its own for every test, so that tests can share a store."""
    return request.node.name


def recipe(stage: str, steps: int = 100) -> Recipe:
    return {"stage": stage, "training": {"steps": steps, "betas": [0.9, 0.99]}, "data": {"source": "digits"}}


def open_stage(experiment: Experiment, stage: str) -> StageRun:
    return StageRun(experiment, stage, recipe(stage), num_parameters=7, checkpoint=Path("results/checkpoint"))


def rows(last: int) -> list[dict[str, float | int]]:
    return [{"step": step, CURVE: 9.0 - step, "learning_rate": 0.1} for step in range(1, last + 1)]


def logged(experiment: Experiment, run_id: str, key: str = CURVE) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in experiment.client.get_metric_history(run_id, key)]


def expected(last: int) -> list[tuple[int, float]]:
    return [(step, 9.0 - step) for step in range(1, last + 1)]


def runs(experiment: Experiment, name: str) -> list[Run]:
    return list(experiment.client.search_runs([experiment.id], f"attributes.run_name = '{name}'"))


def train_stage(experiment: Experiment, stage: str, last: int = 3) -> str:
    with open_stage(experiment, stage) as run:
        for row in rows(last):
            run.measured(row)
    return run.run_id


def stage_metrics(stage: str, value: float = 1.5) -> dict[str, object]:
    return {
        "stage": stage,
        "recipe_digest": recipe_digest(recipe(stage)),
        "split": "test",
        "estimate": "exact",
        "nats": 66.5,
        "num_images": 360,
        "num_dims": 64,
        "bits_per_dim": value,
        "standard_error": 0.01,
        "num_parameters": 7,
    }


def chain_metrics(*stages: str) -> dict[str, object]:
    return {
        "split": "test",
        "bits_per_dim": 1.5 * len(stages),
        "standard_error": 0.02,
        "num_images": 360,
        "num_parameters": 7 * len(stages),
        "stages": {name: stage_metrics(name) for name in stages},
    }


def start_at_once(barrier: Barrier, uri: str, output: Path, stage: str) -> None:
    barrier.wait()
    train_stage(create_experiment(uri, "digits", output), stage, last=50)


def test_six_processes_starting_at_once_on_a_new_store_lose_nothing(tmp_path: Path) -> None:
    uri, output = f"sqlite:///{tmp_path}/new/mlflow.db", tmp_path / "experiment.json"
    context = multiprocessing.get_context("forkserver")  # as spawn, but mlflow's seconds of importing are paid once
    context.set_forkserver_preload(["spn.tracking"])
    barrier = context.Barrier(NUM_PROCESSES)
    names = [f"stage_{index}" for index in range(NUM_PROCESSES)]
    processes = [context.Process(target=start_at_once, args=(barrier, uri, output, name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * NUM_PROCESSES
    experiment = load_experiment(output)
    assert {each.name for each in experiment.client.search_experiments()} == {"Default", "digits"}
    for name in names:
        (run,) = runs(experiment, name)
        assert run.info.status == "FINISHED"
        assert logged(experiment, run.info.run_id) == expected(50)


def test_an_experiment_is_created_once_and_read_back(experiment: Experiment, tmp_path: Path) -> None:
    again = create_experiment(experiment.uri, "digits", tmp_path / "again.json")
    assert again == experiment == load_experiment(tmp_path / "again.json")
    assert create_experiment(experiment.uri, "photos", tmp_path / "photos.json") != experiment
    assert {path.name for path in tmp_path.iterdir()} == {"again.json", "photos.json"}


def test_a_relative_store_lies_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    create_experiment("sqlite:///mlflow.db", "digits", Path("experiment.json"))
    assert (tmp_path / "mlflow.db").exists()
    assert load_experiment(Path("experiment.json")).uri == "sqlite:///mlflow.db"


def test_a_deleted_experiment_is_refused_with_its_remedy(experiment: Experiment, tmp_path: Path) -> None:
    deleted = create_experiment(experiment.uri, "deleted", tmp_path / "deleted.json")
    deleted.client.delete_experiment(deleted.id)
    with pytest.raises(InputError, match=f"experiments restore --experiment-id {deleted.id}$"):
        create_experiment(experiment.uri, "deleted", tmp_path / "deleted.json")


def test_a_missing_store_is_refused_and_not_created(tmp_path: Path) -> None:
    handle = tmp_path / "experiment.json"
    with pytest.raises(InputError, match=r"experiment\.json: expected the uri and id"):
        load_experiment(handle)
    handle.write_text(f'{{"uri": "sqlite:///{tmp_path}/mlflow.db", "id": "1"}}')
    with pytest.raises(InputError, match=r"experiment\.json: expected experiment 1 .* found none"):
        load_experiment(handle)
    assert list(tmp_path.iterdir()) == [handle]


def test_an_experiment_missing_from_its_store_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    handle = tmp_path / "experiment.json"
    handle.write_text(f'{{"uri": "{experiment.uri}", "id": "4711"}}')
    with pytest.raises(InputError, match="expected experiment 4711"):
        load_experiment(handle)


def test_a_stage_run_holds_recipe_curves_and_origin(experiment: Experiment, stage: str) -> None:
    run = experiment.client.get_run(train_stage(experiment, stage))
    assert run.info.run_name == stage
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "stage": stage,
        "training.steps": "100",
        "training.betas": "[0.9, 0.99]",
        "data.source": "digits",
    }
    assert run.data.tags["kind"] == "stage"
    assert run.data.tags["recipe_digest"] == recipe_digest(recipe(stage))
    assert run.data.tags["checkpoint"] == "results/checkpoint"
    assert run.data.metrics["num_parameters"] == 7
    assert logged(experiment, run.info.run_id) == expected(3)
    assert len(logged(experiment, run.info.run_id, "learning_rate")) == 3


@pytest.mark.parametrize(
    ("error", "status"), [(FloatingPointError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_an_exception_is_told_and_the_same_run_continues(
    experiment: Experiment, stage: str, error: type[BaseException], status: str
) -> None:
    run = open_stage(experiment, stage)
    with pytest.raises(error), run:  # noqa: PT012
        for row in rows(3):
            run.measured(row)
        raise error
    assert experiment.client.get_run(run.run_id).info.status == status
    assert train_stage(experiment, stage, last=5) == run.run_id
    assert experiment.client.get_run(run.run_id).info.status == "FINISHED"
    assert logged(experiment, run.run_id) == expected(5)


def test_rows_that_a_killed_process_had_not_written_come_with_the_history(experiment: Experiment, stage: str) -> None:
    killed = open_stage(experiment, stage)
    killed.measured(rows(1)[0])
    del killed
    with open_stage(experiment, stage) as run:
        assert experiment.client.get_run(run.run_id).info.status == "RUNNING"
        for row in rows(4):
            run.measured(row)
    assert logged(experiment, run.run_id) == expected(4)
    assert len(runs(experiment, stage)) == 1


def test_a_value_measured_at_few_steps_is_not_lost_after_a_resume(experiment: Experiment, stage: str) -> None:
    history = [row | ({"validation": 1.0} if row["step"] in (2, 4) else {}) for row in rows(4)]
    for last in (3, 4):
        with pytest.raises(KeyboardInterrupt), open_stage(experiment, stage) as run:  # noqa: PT012
            for row in history[:last]:
                run.measured(row)
            raise KeyboardInterrupt
    assert logged(experiment, run.run_id, "validation") == [(2, 1.0), (4, 1.0)]


def test_a_finished_run_is_left_as_it_is(experiment: Experiment, stage: str) -> None:
    run_id = train_stage(experiment, stage, last=3)
    before = experiment.client.get_run(run_id)
    assert train_stage(experiment, stage, last=9) == run_id
    assert experiment.client.get_run(run_id).to_dictionary() == before.to_dictionary()
    assert logged(experiment, run_id) == expected(3)


def test_training_does_not_wait_for_every_row(
    experiment: Experiment, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_stage(experiment, stage) as run:
        writes: list[str] = []
        write = experiment.client.log_batch
        monkeypatch.setattr(
            experiment.client, "log_batch", lambda *args, **kwargs: (writes.append("batch"), write(*args, **kwargs))
        )
        for row in rows(1000):
            run.measured(row)
    assert len(writes) <= 10
    assert logged(experiment, run.run_id) == expected(1000)


def test_a_hundred_and_more_parameters_are_kept(experiment: Experiment, stage: str) -> None:
    many = {"stage": stage, "model": {f"width_{index}": index for index in range(250)}}
    with StageRun(experiment, stage, many, num_parameters=1, checkpoint=Path("checkpoint")) as run:
        pass
    assert len(experiment.client.get_run(run.run_id).data.params) == 251


def test_an_evaluation_is_recorded_once(experiment: Experiment, stage: str) -> None:
    run_id = train_stage(experiment, stage)
    for _ in range(2):
        assert record_evaluation(experiment, stage_metrics(stage)) == run_id
    run = experiment.client.get_run(run_id)
    assert run.data.metrics["standard_error"] == 0.01
    assert (run.data.tags["split"], run.data.tags["estimate"]) == ("test", "exact")
    assert logged(experiment, run_id, "bits_per_dim") == [(0, 1.5)]
    record_evaluation(experiment, stage_metrics(stage, value=1.25))
    assert experiment.client.get_run(run_id).data.metrics["bits_per_dim"] == 1.25


def test_figures_of_a_stage_without_a_run_are_refused(experiment: Experiment, stage: str) -> None:
    with pytest.raises(InputError, match=f"expected a run of stage {stage}"):
        record_evaluation(experiment, stage_metrics(stage))
    with pytest.raises(InputError, match=f"expected a run of stage {stage}"):
        record_chain(experiment, "chain", chain_metrics(stage))
    assert runs(experiment, "chain") == []


@pytest.fixture
def picture(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "samples.png"
    path.write_bytes(b"pixels")
    return path


def test_a_chain_is_recorded_once_with_its_figures_links_and_samples(
    experiment: Experiment, stage: str, picture: Path, tmp_path: Path
) -> None:
    stages = [f"{stage}_high", f"{stage}_low"]
    ids = [train_stage(experiment, name) for name in stages]
    (run_id,) = {record_chain(experiment, stage, chain_metrics(*stages), {"2_low.png": picture}) for _ in range(2)}
    (run,) = runs(experiment, stage)
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert run.data.tags["kind"] == "chain"
    assert run.data.metrics["bits_per_dim"] == 3.0
    assert run.data.metrics["num_parameters"] == 14
    assert logged(experiment, run_id, "bits_per_dim") == [(0, 3.0)]
    for name, stage_run_id in zip(stages, ids, strict=True):
        assert run.data.metrics[f"bits_per_dim.{name}"] == 1.5
        assert run.data.tags[f"stage_run.{name}"] == stage_run_id
        assert f"[{name}](#/experiments/{experiment.id}/runs/{stage_run_id})" in run.data.tags["mlflow.note.content"]
    artefact = experiment.client.download_artifacts(run_id, "2_low.png", str(tmp_path))
    assert Path(artefact).read_bytes() == b"pixels"


def test_a_chain_of_other_stages_is_another_run(experiment: Experiment, stage: str) -> None:
    for name in ("old", "new"):
        train_stage(experiment, f"{stage}_{name}")
        record_chain(experiment, stage, chain_metrics(f"{stage}_{name}"))
    assert len(runs(experiment, stage)) == 2


def test_a_chain_of_one_test_image_has_no_standard_error(experiment: Experiment, stage: str) -> None:
    train_stage(experiment, f"{stage}_only")
    run_id = record_chain(experiment, stage, chain_metrics(f"{stage}_only") | {"standard_error": None})
    assert "standard_error" not in experiment.client.get_run(run_id).data.metrics


def test_mlflow_reports_nothing_to_its_makers() -> None:
    # MLflow itself is silent under pytest and CI; a user's machine is neither.
    quiet = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    code = "import spn.tracking, mlflow.telemetry as t; assert t.get_telemetry_client() is None"
    subprocess.run([sys.executable, "-c", code], env=quiet, check=True)
