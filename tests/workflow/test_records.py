"""`spn record` on the results of a real chain, for changes that come between or during records."""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from experiment import tiny_params, write_params
from mlflow.entities import Run
from processes import start

from spn import tracking
from spn.checkpoint import load_tensors, save_tensors
from spn.cli import main
from spn.config import load_params
from spn.files import read_json, write_json
from spn.paths import HANDLE
from spn.provenance import Recipe, record_recipe
from spn.provenance.results import recorded_in
from spn.tracking import Experiment, load_experiment

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

RESULTS = "results/chains/raster"


def raster_params(**changes: Any) -> dict[str, Any]:
    """Return parameters of one chain, with changes of sections; None leaves one out."""
    params = tiny_params()
    params["stages"] = {"raster": params["stages"]["raster"]}
    params["chains"] = {"raster": params["chains"]["raster"]}
    params |= {"completion": {"num_images": 2, "masks": ["upper"], "draws": 1}, "codec": {"num_images": 2}}
    return {key: value for key, value in (params | changes).items() if value is not None}


def run(command: str) -> None:
    assert main(command.split()) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every result of the chain, and nothing recorded of it."""
    folder = tmp_path_factory.mktemp("made")
    write_params(folder, raster_params())
    data, stage = "--data data/digits/S1.h5", "results/stages/raster"
    weights = f"{data} --checkpoint {stage}/checkpoint.safetensors"
    with contextlib.chdir(folder):
        run("preprocess --scale-factor 1 --output data/digits/S1.h5")
        run(f"train raster {data} --output {stage}")
        run(f"evaluate raster {weights} --output {stage}")
        run(f"sample_stage raster raster {weights} --output {RESULTS}/raster")
        run(f"summarise raster --output {RESULTS}/metrics.json")
        run(f"export raster {data} --output {RESULTS}")
        run(f"complete_chain raster {data} --output {RESULTS}/completion")
        run(f"codec raster {data} --output {RESULTS}/rate.json")
    for place in ("mlruns", "mlflow"):
        shutil.rmtree(folder / place)
    (folder / "mlflow.db").unlink()
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the results, in which the test runs."""
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    return folder


def record() -> Experiment:
    run("record raster --output mlflow/chains/raster.json")
    return load_experiment(HANDLE)


def chain_runs(store: Experiment) -> list[Run]:
    """Return the runs of chains, the last first."""
    return list(store.client.search_runs([store.id], "tags.kind = 'chain'"))


def test_a_run_keeps_the_parameters_that_made_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, opened = Path("params.yaml").read_bytes(), tracking.open_experiment

    def open_while_somebody_edits(handle: Path, name: str) -> Experiment:
        write_params(folder, raster_params(seed=2))
        return opened(handle, name)

    monkeypatch.setattr(tracking, "open_experiment", open_while_somebody_edits)
    store = record()
    (recorded,) = chain_runs(store)
    kept = store.client.download_artifacts(recorded.info.run_id, "params.yaml", str(tmp_path))
    assert recorded.data.params["seed"] == "1"
    assert Path(kept).read_bytes() == before != Path("params.yaml").read_bytes()


def test_a_model_of_other_weights_is_not_recorded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, notes = load_tensors(path := Path(f"{RESULTS}/model.safetensors"))
    save_tensors(path, tensors, notes | {"trained": {"raster": "0" * 64}})
    assert main(["record", "raster", "--output", "mlflow/chains/raster.json"]) == 2
    assert "expected the weights of raster that" in capsys.readouterr().err
    assert not Path("mlflow/chains/raster.json").exists()


def test_what_is_no_longer_asked_for_leaves_the_run_that_has_it(folder: Path) -> None:
    store = record()
    (asked,) = chain_runs(store)
    assert "completion.upper.absolute_error" in asked.data.metrics
    write_params(folder, raster_params(completion=None, codec=None))
    for _ in range(2):
        record()
    recorded, before = chain_runs(store)
    assert before.info.run_id == asked.info.run_id
    assert not [key for key in recorded.data.metrics if key.startswith(("completion", "codec"))]
    assert "completed.png" not in {each.path for each in store.client.list_artifacts(recorded.info.run_id)}


def test_a_chain_of_which_nothing_is_drawn_or_coded_keeps_its_run(folder: Path) -> None:
    write_params(folder, raster_params(completion=None, codec=None))
    (recorded,) = chain_runs(record())
    stage = recorded.data.tags["stage_run.raster"]
    training = load_experiment(HANDLE).client.get_run(stage).data.tags["recipe_digest"]
    # As the versions before computed it.
    expected = hashlib.sha256(json.dumps(["raster", training]).encode()).hexdigest()
    assert recorded.data.tags["chain_digest"] == expected


def test_a_copy_is_recorded_anew_and_leaves_the_original_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = record()
    kept = contents(folder)
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "another"))
    assert record_elsewhere() == 2
    assert Path("log").read_text().startswith("spn: error: mlflow/experiment.json: expected the artefacts of ")
    Path("mlflow.db").unlink()
    shutil.rmtree("mlruns")
    HANDLE.unlink()
    assert record_elsewhere() == 0
    for store in (original, load_experiment(HANDLE)):
        assert len(chain_runs(store)) == 1
    assert contents(folder) == kept


def test_a_new_store_is_not_taken_for_the_one_before(folder: Path) -> None:
    def recipe() -> Recipe:
        return record_recipe(load_params(Path("params.yaml")), "raster", "d" * 64, recorded_in())

    assert record_elsewhere() == 0
    before, handle = recipe(), read_json(HANDLE)
    Path("mlflow.db").unlink()
    shutil.rmtree("mlruns")
    HANDLE.unlink()
    Path("mlflow/chains/raster.json").rename("mlflow/chains/before.json")
    assert record_elsewhere() == 0
    after = read_json(HANDLE)
    assert (after["uri"], after["id"]) == (handle["uri"], handle["id"])
    assert recipe() != before
    assert read_json(Path("mlflow/chains/raster.json"))["recipe"]["experiment"] == after
    write_json(HANDLE, handle)  # of the store before
    assert record_elsewhere() == 2


def record_elsewhere() -> int | None:
    """Record in another process, because MLflow keeps a database open that is deleted meanwhile."""
    process = start(Path(), ["record", "raster", "--output", "mlflow/chains/raster.json"])
    process.join()
    return process.exitcode


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (folder / "mlruns").rglob("*") if path.is_file()}
