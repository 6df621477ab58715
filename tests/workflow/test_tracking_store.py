"""The MLflow store and its experiment are created once, by however many processes, and never by accident."""

import contextlib
import os
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import torch
from experiment import tiny_params, write_params
from processes import context
from tracked import assert_recorded, open_at

from spn.cli import main
from spn.config import InputError
from spn.files import write_json
from spn.tracking import Experiment, load_experiment, open_experiment

pytestmark = pytest.mark.slow

STAGES = [f"raster_{index}" for index in range(6)]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("store")
    return open_at(f"sqlite:///{folder}/mlflow.db", folder / "experiment.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data of six stages, and no store."""
    params = tiny_params()
    params["stages"] = {name: params["stages"]["raster"] for name in STAGES}
    params["chains"] = {name: {"stages": [name]} for name in STAGES}
    write_params(tmp_path, params)
    with contextlib.chdir(tmp_path):
        assert main(["preprocess", "--scale-factor", "1", "--output", "S1.h5"]) == 0
    return tmp_path


def start_at_once(barrier: Barrier, folder: Path, stage: str) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    barrier.wait()
    os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///new/mlflow.db"
    assert main(["train", stage, "--data", "S1.h5", "--output", f"out/{stage}"]) == 0


@pytest.mark.slow
@pytest.mark.xdist_group("processes")
def test_six_trainings_starting_at_once_on_a_new_store_lose_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier = context().Barrier(len(STAGES))
    processes = [context().Process(target=start_at_once, args=(barrier, folder, name)) for name in STAGES]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(STAGES)
    monkeypatch.chdir(folder)
    experiment = load_experiment(Path("mlflow/experiment.json"))
    assert {each.name for each in experiment.client.search_experiments()} == {"Default", "digits"}
    for name in STAGES:
        assert_recorded(experiment, name, folder / "out" / name / "history.csv")


def test_an_experiment_is_created_once_and_read_back(experiment: Experiment, tmp_path: Path) -> None:
    again = open_at(experiment.uri, tmp_path / "again.json")
    assert again == experiment == load_experiment(tmp_path / "again.json")
    assert open_at("sqlite:///elsewhere.db", tmp_path / "again.json", "photos") == experiment  # the handle decides
    assert open_at(experiment.uri, tmp_path / "photos.json", "photos") != experiment
    assert {path.name for path in tmp_path.iterdir()} == {"again.json", "photos.json"}


def kind_with_views(experiment: Experiment) -> str | None:
    tags: dict[str, str] = experiment.client.get_experiment(experiment.id).tags
    assert ("mlflow.sharedViewState.chains" in tags) == (
        tags.get("mlflow.experimentKind") == "custom_model_development"
    )
    return tags.get("mlflow.experimentKind")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "custom_model_development"),
        ("genai_development_inferred", "custom_model_development"),
        ("genai_development", "genai_development"),
    ],
)
@pytest.mark.parametrize("has_handle", [True, False])
def test_an_experiment_of_before_opens_on_its_runs_unless_somebody_chose_otherwise(
    experiment: Experiment, tmp_path: Path, before: str | None, after: str, has_handle: bool
) -> None:
    name = f"{before}_{has_handle}"
    tags = {} if before is None else {"mlflow.experimentKind": before}
    old = Experiment(experiment.uri, experiment.client.create_experiment(name, tags=tags))
    handle = tmp_path / "handle.json"
    if has_handle:
        write_json(handle, {"uri": old.uri, "id": old.id})
    opened = open_at(old.uri, handle, name)
    assert (opened.uri, opened.id) == (old.uri, old.id)
    assert kind_with_views(old) == after


def test_a_handle_of_before_gets_the_token_that_all_handles_of_its_experiment_have(
    experiment: Experiment, tmp_path: Path
) -> None:
    old = Experiment(experiment.uri, experiment.client.create_experiment("without a token"))
    handles = [tmp_path / "one.json", tmp_path / "other.json"]
    for handle in handles:
        write_json(handle, {"uri": old.uri, "id": old.id})
    one, other = (open_experiment(handle, "without a token") for handle in handles)
    assert one == other == load_experiment(handles[0])
    assert one.token
    assert (one.uri, one.id) == (old.uri, old.id)


def test_a_relative_store_lies_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_at("sqlite:///mlflow.db", Path("experiment.json"))
    assert (tmp_path / "mlflow.db").exists()
    assert load_experiment(Path("experiment.json")).uri == "sqlite:///mlflow.db"


def test_a_store_that_was_moved_is_refused_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow keeps the absolute path of the artefacts, so it would write to where the store was, or its original is."""
    handle, made, moved = Path("mlflow/experiment.json"), tmp_path / "made here", tmp_path / "moved"
    made.mkdir()
    with contextlib.chdir(made):
        open_at("sqlite:///mlflow.db", handle)
    made.rename(moved)
    monkeypatch.chdir(moved)
    with pytest.raises(InputError) as error:
        open_experiment(handle, "digits")
    assert str(error.value) == (
        f"mlflow/experiment.json: expected the artefacts of experiment 1 in {moved}/mlruns, got {made}/mlruns, "
        "where they were before the store was moved or copied; move it back, or delete mlflow.db, mlruns and "
        "mlflow/experiment.json to record everything anew from the results"
    )
    made.symlink_to(moved)
    open_experiment(handle, "digits")  # the same folder by another name


def test_a_deleted_experiment_is_refused_with_its_remedy(experiment: Experiment, tmp_path: Path) -> None:
    deleted = open_at(experiment.uri, tmp_path / "deleted.json", "deleted")
    deleted.client.delete_experiment(deleted.id)
    with pytest.raises(InputError, match=f"experiments restore --experiment-id {deleted.id}$"):
        open_at(experiment.uri, tmp_path / "again.json", "deleted")
    with pytest.raises(InputError, match=f"expected an active experiment {deleted.id} .* found none"):
        open_experiment(tmp_path / "deleted.json", "deleted")
    assert not (tmp_path / "again.json").exists()


def test_a_missing_store_is_refused_and_not_created(tmp_path: Path) -> None:
    handle = tmp_path / "experiment.json"
    with pytest.raises(InputError, match=r"experiment\.json: expected a JSON file"):
        load_experiment(handle)
    write_json(handle, {"uri": f"sqlite:///{tmp_path}/mlflow.db", "id": "1"})
    with pytest.raises(
        InputError, match=r"experiment\.json: expected an active experiment 1 .* found none; delete the"
    ):
        open_experiment(handle, "digits")
    assert list(tmp_path.iterdir()) == [handle]


def test_an_experiment_missing_from_its_store_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    handle = tmp_path / "experiment.json"
    write_json(handle, {"uri": experiment.uri, "id": "4711"})
    with pytest.raises(InputError, match="expected an active experiment 4711"):
        load_experiment(handle)


def test_mlflow_reports_nothing_to_its_makers() -> None:
    # MLflow itself is silent under pytest and CI; a user's machine is neither.
    quiet = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    code = "import spn.tracking, mlflow.telemetry as t; assert t.get_telemetry_client() is None"
    subprocess.run([sys.executable, "-c", code], env=quiet, check=True)
