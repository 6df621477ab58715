"""`spn record` on the results of a real chain, for changes that come between or during records."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from experiment import tiny_params, write_params
from mlflow.entities import Run

from spn import tracking
from spn.cli import main
from spn.tracking import Experiment, load_experiment

pytestmark = pytest.mark.slow

RESULTS = "results/chains/raster"


def raster_params() -> dict[str, Any]:
    params = tiny_params()
    params["stages"] = {"raster": params["stages"]["raster"]}
    params["chains"] = {"raster": params["chains"]["raster"]}
    return params | {"completion": {"num_images": 2, "masks": ["upper"], "draws": 1}, "codec": {"num_images": 2}}


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
    return load_experiment(Path("mlflow/experiment.json"))


def chain_runs(store: Experiment) -> list[Run]:
    """Return the runs of chains, the last first."""
    return list(store.client.search_runs([store.id], "tags.kind = 'chain'"))


def test_a_run_keeps_the_parameters_that_made_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, opened = Path("params.yaml").read_bytes(), tracking.open_experiment

    def open_while_somebody_edits(handle: Path, name: str) -> Experiment:
        write_params(folder, raster_params() | {"seed": 2})
        return opened(handle, name)

    monkeypatch.setattr(tracking, "open_experiment", open_while_somebody_edits)
    store = record()
    (recorded,) = chain_runs(store)
    kept = store.client.download_artifacts(recorded.info.run_id, "params.yaml", str(tmp_path))
    assert recorded.data.params["seed"] == "1"
    assert Path(kept).read_bytes() == before != Path("params.yaml").read_bytes()
