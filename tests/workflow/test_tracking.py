"""Runs in a real MLflow store: nothing is lost, nothing is written twice, what is finished stays as it is."""

import json
import os
import signal
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
from model_files import rgb_params, write_model
from processes import context
from tracked import WEIGHTS, expected, logged, open_at, open_stage, recipe, rows, runs, train_stage, wait_for

from spn.config import InputError
from spn.notes import read_notes
from spn.provenance import recipe_digest
from spn.tracking import Experiment, StageRun, record_chain, record_evaluation

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("store")
    return open_at(f"sqlite:///{folder}/mlflow.db", folder / "experiment.json")


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> str:
    """A name of its own for every test, so that tests can share a store."""
    return request.node.name


def stage_metrics(stage: str, value: float = 1.5) -> dict[str, object]:
    return {
        "stage": stage,
        "recipe_digest": recipe_digest(recipe(stage)),
        "split": "test",
        "estimate": "exact",
        "conditioning": "none",
        "dims": "sub-pixels",
        "nats": 66.5,
        "num_images": 360,
        "num_dims": 64,
        "bits_per_dim": value,
        "standard_error": 0.01,
        "num_parameters": 7,
    }


def chain_metrics(*stages: str) -> dict[str, Any]:
    return {
        "split": "test",
        "estimate": "exact",
        "conditioning": "none",
        "dims": "sub-pixels",
        "bits_per_dim": 1.5 * len(stages),
        "standard_error": 0.02,
        "num_images": 360,
        "num_parameters": 7 * len(stages),
        "training_seconds": 90.0,
        "training_images_per_second": 40.0,
        "sampling_images_per_second": 3.0,
        "stages": {name: stage_metrics(name) for name in stages},
    }


STATEMENT = "exact, over all 360 test images of digits"
OTHERS = {"codec.bits_per_dim": 3.25}


def evaluate(experiment: Experiment, metrics: dict[str, object]) -> str:
    return record_evaluation(experiment, metrics, STATEMENT, ["chain", "other"])


def record(
    experiment: Experiment,
    chain: str,
    metrics: dict[str, Any],
    files: dict[str, Path] | None = None,
    width: int = 8,
    model: str = "depth",
) -> str:
    recipes = {name: recipe(name, width) for name in metrics["stages"]}
    return record_chain(experiment, chain, metrics, recipes, STATEMENT, files or {}, model_file(model), OTHERS, {})


@cache
def model_file(chain: str) -> Path:
    """Write a model file of random weights, once for all tests."""
    return write_model(Path(tempfile.mkdtemp()), rgb_params(), chain)


def test_a_stage_run_holds_recipe_curves_and_origin(experiment: Experiment, stage: str) -> None:
    run = experiment.client.get_run(train_stage(experiment, stage))
    assert run.info.run_name == stage
    assert run.info.status == "FINISHED"
    params = {"stage": stage, "training.steps": "100", "training.betas": "0.9, 0.99", "data.source": "digits"}
    assert params.items() <= run.data.params.items()
    tags = {"kind": "stage", "stage": stage, "family": "spn", "data": "digits"}
    assert tags.items() <= run.data.tags.items()
    assert run.data.tags["recipe_digest"] == recipe_digest(recipe(stage))
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


def measure_and_die(uri: str, experiment_id: str, stage: str) -> None:
    killed = open_stage(Experiment(uri, experiment_id), stage)
    killed.measured(rows(1)[0])
    os.kill(os.getpid(), signal.SIGKILL)


def test_rows_that_a_killed_process_had_not_written_come_with_the_history(experiment: Experiment, stage: str) -> None:
    killed = context().Process(target=measure_and_die, args=(experiment.uri, experiment.id, stage))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
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
        writes, write = 0, experiment.client.log_batch

        def log_batch(*args: Any, **kwargs: Any) -> None:
            nonlocal writes
            writes += 1
            write(*args, **kwargs)

        monkeypatch.setattr(experiment.client, "log_batch", log_batch)
        for row in rows(1000):
            run.measured(row)
    assert 1 <= writes <= 10
    assert logged(experiment, run.run_id) == expected(1000)


def test_a_hundred_and_more_parameters_are_kept(experiment: Experiment, stage: str) -> None:
    many = recipe(stage) | {"model": {"family": "spn"} | {f"width_{index}": index for index in range(250)}}
    with StageRun(experiment, stage, many, num_parameters=1, checkpoint=WEIGHTS) as run:
        pass
    params = experiment.client.get_run(run.run_id).data.params
    assert all(params[f"model.width_{index}"] == str(index) for index in range(250))


def test_an_evaluation_is_recorded_once(experiment: Experiment, stage: str) -> None:
    run_id = train_stage(experiment, stage)
    for _ in range(2):
        assert evaluate(experiment, stage_metrics(stage)) == run_id
    run = experiment.client.get_run(run_id)
    assert run.data.metrics["standard_error"] == 0.01
    assert (run.data.tags["split"], run.data.tags["estimate"]) == ("test", "exact")
    assert logged(experiment, run_id, "bits_per_dim") == [(0, 1.5)]
    evaluate(experiment, stage_metrics(stage, value=1.25))
    assert experiment.client.get_run(run_id).data.metrics["bits_per_dim"] == 1.25


def test_figures_of_a_stage_without_a_run_are_refused(experiment: Experiment, stage: str) -> None:
    with pytest.raises(InputError, match=f"expected a run of stage {stage}"):
        evaluate(experiment, stage_metrics(stage))
    with pytest.raises(InputError, match=f"expected a run of stage {stage}"):
        record(experiment, "chain", chain_metrics(stage))
    assert runs(experiment, "chain") == []


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "samples.png"
    path.write_bytes(b"pixels")
    return path


def test_a_chain_is_recorded_once_with_its_figures_links_and_samples(
    experiment: Experiment, stage: str, picture: Path, tmp_path: Path
) -> None:
    stages = [f"{stage}_high", f"{stage}_low"]
    ids = [train_stage(experiment, name) for name in stages]
    files = {"samples.png": picture, "samples_2.png": picture}
    (run_id,) = {record(experiment, stage, chain_metrics(*stages), files) for _ in range(2)}
    (run,) = runs(experiment, stage)
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert run.data.tags["kind"] == "chain"
    assert run.data.metrics["bits_per_dim"] == 3.0
    assert run.data.metrics["num_parameters"] == 14
    assert run.data.metrics["codec.bits_per_dim"] == 3.25
    assert logged(experiment, run_id, "bits_per_dim") == [(0, 1.5), (0, 3.0)]  # the model file's, then the chain's
    for name, stage_run_id in zip(stages, ids, strict=True):
        assert run.data.metrics[f"bits_per_dim.{name}"] == 1.5
        assert run.data.tags[f"stage_run.{name}"] == stage_run_id
        assert f"[{name}](#/experiments/{experiment.id}/runs/{stage_run_id}?" in run.data.tags["mlflow.note.content"]
    for name in files:
        artefact = experiment.client.download_artifacts(run_id, name, str(tmp_path))
        assert Path(artefact).read_bytes() == b"pixels"


def test_a_change_of_a_chain_that_is_taken_back_gives_its_first_figure_back(experiment: Experiment, stage: str) -> None:
    metrics = chain_metrics(f"{stage}_only")
    train_stage(experiment, f"{stage}_only")
    changed = metrics | {"bits_per_dim": 1.25}
    for recorded, model in ((metrics, "depth"), (changed, "raster"), (metrics, "depth")):
        run_id = record(experiment, stage, recorded, model=model)
        assert experiment.client.get_run(run_id).data.metrics["bits_per_dim"] == recorded["bits_per_dim"]


def test_a_model_has_the_figure_of_its_file_and_the_run_that_of_the_chain(experiment: Experiment, stage: str) -> None:
    """They differ if the file has weights of half precision."""
    train_stage(experiment, f"{stage}_only")
    metrics = chain_metrics(f"{stage}_only") | {"bits_per_dim": 1.25}
    (run_id,) = {record(experiment, stage, metrics) for _ in range(2)}
    models = experiment.client.search_logged_models([experiment.id], f"source_run_id = '{run_id}'")
    in_file = read_notes(model_file("depth"))["figures"]["bits_per_dim"]
    assert [(each.key, each.value) for model in models for each in model.metrics or []] == [("bits_per_dim", in_file)]
    assert experiment.client.get_run(run_id).data.metrics["bits_per_dim"] == 1.25


def test_a_chain_of_other_stages_is_another_run(experiment: Experiment, stage: str) -> None:
    for name in ("old", "new"):
        train_stage(experiment, f"{stage}_{name}")
        record(experiment, stage, chain_metrics(f"{stage}_{name}"))
    assert len(runs(experiment, stage)) == 2


def test_chains_are_compared_by_what_they_cost_and_whether_they_are_bounds(experiment: Experiment, stage: str) -> None:
    chains = {name: chain_metrics(f"{stage}_{name}") for name in ("exact", "bound")}
    chains["bound"] |= {"estimate": "bound", "sampling_images_per_second": 6.0}
    for name, metrics in chains.items():
        train_stage(experiment, f"{stage}_{name}")
        record(experiment, stage, metrics)
    # As the UI searches and sorts them.
    query = f"attributes.run_name = '{stage}' and metrics.training_seconds = 90"
    order = ["metrics.sampling_images_per_second DESC"]
    found = experiment.client.search_runs([experiment.id], query, order_by=order)
    assert [run.data.tags["estimate"] for run in found] == ["bound", "exact"]
    assert ["≤ 1.5000 ± 0.0200 bits/dim" in run.data.tags["mlflow.note.content"] for run in found] == [True, False]
    for run, speed in zip(found, (6.0, 3.0), strict=True):
        assert run.data.metrics["training_images_per_second"] == 40.0
        assert run.data.metrics["sampling_images_per_second"] == speed
        assert run.data.metrics["num_parameters"] == 7


def test_a_chain_of_one_test_image_or_draw_has_no_standard_error(experiment: Experiment, stage: str) -> None:
    train_stage(experiment, f"{stage}_only")
    unknown = {"standard_error": None, "standard_error_of_draws": None}
    evaluate(experiment, stage_metrics(f"{stage}_only") | unknown)
    run_id = record(experiment, stage, chain_metrics(f"{stage}_only") | unknown)
    assert not unknown.keys() & experiment.client.get_run(run_id).data.metrics.keys()


def test_two_settings_of_a_chain_differ_in_the_parameters_that_differ(experiment: Experiment, stage: str) -> None:
    params = []
    for width in (8, 16):
        made = recipe(f"{stage}_low", width)
        with StageRun(experiment, f"{stage}_low", made, num_parameters=7, checkpoint=WEIGHTS):
            pass
        metrics = chain_metrics(f"{stage}_low")
        metrics["stages"][f"{stage}_low"]["recipe_digest"] = recipe_digest(made)
        params.append(experiment.client.get_run(record(experiment, stage, metrics, width=width)).data.params)
    one, other = params
    differing = {key: (one[key], other[key]) for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    assert differing == {f"stages.{stage}_low.model.width": ("8", "16")}
    assert one[f"stages.{stage}_low.training.steps"] == "100"
    assert one[f"stages.{stage}_low.bits"] == "0, 5"
    assert (one["stages"], one["seed"], one["data.source"]) == (f"{stage}_low", "1", "digits")
    assert not [key for key in one if "digest" in key or "targets" in key]


def test_runs_are_found_by_what_they_are_of(experiment: Experiment, stage: str) -> None:
    train_stage(experiment, f"{stage}_low")
    evaluate(experiment, stage_metrics(f"{stage}_low"))
    record(experiment, stage, chain_metrics(f"{stage}_low"))

    def found(query: str) -> set[str]:
        here = f"attributes.run_name LIKE '{stage}%' and {query}"
        return {run.info.run_name for run in experiment.client.search_runs([experiment.id], here)}

    assert found("tags.family = 'spn' and tags.data = 'digits'") == {stage, f"{stage}_low"}
    assert found(f"tags.chain = '{stage}'") == {stage}
    assert found("tags.chain LIKE '%other%'") == {f"{stage}_low"}
    assert found(f"tags.stage = '{stage}_low' and tags.estimate = 'exact'") == {stage, f"{stage}_low"}
    assert found("dataset.name = 'digits' and dataset.context = 'test'") == {stage}
    assert found("dataset.name = 'digits' and dataset.context = 'train'") == {f"{stage}_low"}


def test_the_data_are_an_input_once(experiment: Experiment, stage: str) -> None:
    train_stage(experiment, f"{stage}_low")
    for _ in range(2):
        run_id = record(experiment, stage, chain_metrics(f"{stage}_low"))
    inputs = experiment.client.get_run(run_id).inputs
    assert inputs is not None
    (given,) = inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("digits", "d" * 36)
    assert (given.dataset.source_type, json.loads(given.dataset.source)["source"]) == ("digits", "digits")
    assert {tag.key: tag.value for tag in given.tags} == {"mlflow.data.context": "test"}


def test_a_description_says_what_was_measured_and_how_to_repeat_it(experiment: Experiment, stage: str) -> None:
    train_stage(experiment, f"{stage}_low")
    of_stage = evaluate(experiment, stage_metrics(f"{stage}_low"))
    of_chain = record(experiment, stage, chain_metrics(f"{stage}_low"))
    said = [experiment.client.get_run(each).data.tags["mlflow.note.content"] for each in (of_stage, of_chain)]
    assert all(STATEMENT in each and "1.5000 ± 0.0" in each and "To repeat it" in each for each in said)
    assert said[0].startswith("Its share of chain and other: **1.5000 ± 0.0100 bits/dim**")
    assert f"snakemake --cores all mlflow/chains/{stage}.json" in said[1]


def test_a_run_keeps_its_weights_when_the_next_training_replaces_the_file(
    experiment: Experiment, stage: str, tmp_path: Path
) -> None:
    checkpoint, kept = tmp_path / "checkpoint.safetensors", []
    for width in (8, 16):
        checkpoint.write_bytes(b"weights of %d" % width)
        with StageRun(experiment, stage, recipe(stage, width), num_parameters=7, checkpoint=checkpoint) as run:
            pass
        kept.append(run.run_id)
    for run_id, width in zip(kept, (8, 16), strict=True):
        copy = experiment.client.download_artifacts(run_id, "checkpoint.safetensors", str(tmp_path / str(width)))
        assert Path(copy).read_bytes() == b"weights of %d" % width


def test_a_finished_run_without_weights_gets_them(experiment: Experiment, stage: str, tmp_path: Path) -> None:
    with StageRun(experiment, stage, recipe(stage), num_parameters=7) as run:  # as earlier versions did
        for row in rows(3):
            run.measured(row)
    assert experiment.client.list_artifacts(run.run_id) == []
    assert train_stage(experiment, stage) == run.run_id
    copy = Path(experiment.client.download_artifacts(run.run_id, "checkpoint.safetensors", str(tmp_path)))
    assert copy.read_bytes() == WEIGHTS.read_bytes()
    assert logged(experiment, run.run_id) == expected(3)


def test_a_training_shows_what_its_machine_does(
    experiment: Experiment, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")

    def sampled() -> list[tuple[int, float]]:
        return logged(experiment, run.run_id, "system/system_memory_usage_megabytes")

    with StageRun(experiment, stage, recipe(stage), num_parameters=7, is_training=True) as run:
        wait_for(sampled)
    assert experiment.client.get_run(run.run_id).data.metrics["system/cpu_utilization_percentage"] >= 0
    (_, megabytes), *_ = sampled()
    assert megabytes == pytest.approx(psutil.virtual_memory().used / 1e6, rel=0.5)


def test_no_samples_are_taken_if_the_environment_says_so_or_nothing_is_trained(
    experiment: Experiment, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")
    for is_training in (False, True):
        if is_training:
            monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
        made = recipe(f"{stage}_{is_training}")
        with StageRun(experiment, stage, made, num_parameters=7, is_training=is_training) as run:
            time.sleep(0.2)
        assert set(experiment.client.get_run(run.run_id).data.metrics) == {"num_parameters"}


def test_a_failing_sample_is_told_once_and_training_goes_on(
    experiment: Experiment, stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")

    def fail() -> None:
        raise OSError("no /proc")

    monkeypatch.setattr(psutil, "virtual_memory", fail)
    with StageRun(experiment, stage, recipe(stage), num_parameters=7, is_training=True) as run:
        said = ""
        while "system metrics" not in said:
            said += capsys.readouterr().err
        for row in rows(3):
            run.measured(row)
    assert said == "spn: no more system metrics: no /proc\n"
    assert logged(experiment, run.run_id) == expected(3)
    assert experiment.client.get_run(run.run_id).info.status == "FINISHED"
