"""The MLflow store and its experiment are created once, by however many processes, and never by accident."""

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from tracked import expected, logged, runs, train_stage

from spn.config import InputError
from spn.tracking import Experiment, create_experiment, load_experiment

NUM_PROCESSES = 6


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("store")
    return create_experiment(f"sqlite:///{folder}/mlflow.db", "digits", folder / "experiment.json")


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
    with pytest.raises(InputError, match=f"expected an active experiment {deleted.id} .* found none"):
        load_experiment(tmp_path / "deleted.json")


def test_a_missing_store_is_refused_and_not_created(tmp_path: Path) -> None:
    handle = tmp_path / "experiment.json"
    with pytest.raises(InputError, match=r"experiment\.json: expected the uri and id"):
        load_experiment(handle)
    handle.write_text(f'{{"uri": "sqlite:///{tmp_path}/mlflow.db", "id": "1"}}')
    with pytest.raises(InputError, match=r"experiment\.json: expected an active experiment 1 .* found none"):
        load_experiment(handle)
    assert list(tmp_path.iterdir()) == [handle]


def test_an_experiment_missing_from_its_store_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    handle = tmp_path / "experiment.json"
    handle.write_text(f'{{"uri": "{experiment.uri}", "id": "4711"}}')
    with pytest.raises(InputError, match="expected an active experiment 4711"):
        load_experiment(handle)


def test_mlflow_reports_nothing_to_its_makers() -> None:
    # MLflow itself is silent under pytest and CI; a user's machine is neither.
    quiet = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    code = "import spn.tracking, mlflow.telemetry as t; assert t.get_telemetry_client() is None"
    subprocess.run([sys.executable, "-c", code], env=quiet, check=True)
