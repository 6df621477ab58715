"""Paths of all files and folders of an experiment, relative to its folder."""

import os
from pathlib import Path


def _home() -> Path:
    """Return the experiment's folder in the repository if this is a temporary workspace of DVC, else the working one.

    `dvc exp run --temp` and `dvc queue` run an experiment in a copy of the repository below its `.dvc/`, which they
    delete at its end, and name the repository in DVC_ROOT. The experiment may lie in a folder of the repository.
    """
    here, repository = Path.cwd(), Path(os.environ.get("DVC_ROOT", "."))
    if not here.is_relative_to(repository / ".dvc"):
        return Path()
    workspace = next(folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir())
    return repository / here.relative_to(workspace)


HOME = _home()
"""The folder of what outlives a run and is shared by all: states of trainings, and the MLflow store."""

PARAMS = Path("params.yaml")
SOURCES = Path("sources")
DATA = Path("data")
RUNS = HOME / "runs"
RESULTS = Path("results")
CACHE = Path(".cache")

DATABASE = HOME / "mlflow.db"
HANDLE = HOME / "mlflow/experiment.json"
RECORDS = Path("mlflow/chains")

_SQLITE = "sqlite:///"

CHECKPOINT, HISTORY = "checkpoint.safetensors", "history.csv"
METRICS, NATS = "metrics.json", "nats.npy"
SAMPLES, PICTURE, TIMING = "samples.h5", "samples.png", "timing.json"
COMPLETED, RATE = "completed.png", "rate.json"
CODES, RECONSTRUCTIONS = "codes.h5", "reconstructions.png"
CURVES, BARS, REAL = "curves.png", "bits_per_dim.png", "real.png"
GALLERY = "gallery.html"
REPORT = "report.json"
MODEL = "model.safetensors"


def slices_path(dataset: str, scale_factor: int | str, data: Path = DATA) -> Path:
    """Return the path of the HDF5 file of slices under a scale factor."""
    return data / dataset / f"S{scale_factor}.h5"


def stage_folder(stage: str, results: Path = RESULTS) -> Path:
    """Return the folder of a stage's checkpoint, history, metrics and nats."""
    return results / "stages" / stage


def checkpoint_path(stage: str, results: Path = RESULTS) -> Path:
    """Return the path of a stage's weights."""
    return stage_folder(stage, results) / CHECKPOINT


def codes_path(first_stage: str, results: Path = RESULTS) -> Path:
    """Return the path of the codes of all images under a first stage."""
    return stage_folder(first_stage, results) / CODES


def metrics_path(stage: str, results: Path = RESULTS) -> Path:
    """Return the path of a stage's metrics."""
    return stage_folder(stage, results) / METRICS


def chain_folder(chain: str, results: Path = RESULTS) -> Path:
    """Return the folder of a chain's metrics, with a folder of samples for each of its stages."""
    return results / "chains" / chain


def samples_path(chain: str, stage: str, results: Path = RESULTS) -> Path:
    """Return the path of a chain's samples after a stage."""
    return chain_folder(chain, results) / stage / SAMPLES


def completion_path(chain: str, results: Path = RESULTS) -> Path:
    """Return the path of the metrics of what a chain draws given a part of test images."""
    return chain_folder(chain, results) / "completion" / METRICS


def rate_path(chain: str, results: Path = RESULTS) -> Path:
    """Return the path of the size of a chain's coded test images."""
    return chain_folder(chain, results) / RATE


def summary_path(chain: str, results: Path = RESULTS) -> Path:
    """Return the path of a chain's metrics."""
    return chain_folder(chain, results) / METRICS


def model_path(chain: str, results: Path = RESULTS) -> Path:
    """Return the path of a chain's model file."""
    return chain_folder(chain, results) / MODEL


def plots_folder(results: Path = RESULTS) -> Path:
    """Return the folder of the report."""
    return results / "plots"


def report_path(results: Path = RESULTS) -> Path:
    """Return the path of the report's notes."""
    return plots_folder(results) / REPORT


def report_files(stages: tuple[str, ...]) -> tuple[str, ...]:
    """List the files of a report on these stages, relative to its folder."""
    curves = tuple(f"curves/{stage}.csv" for stage in stages)
    return (f"../{METRICS}", "bits_per_dim.csv", BARS, CURVES, REAL, GALLERY, *curves)


def record_path(chain: str) -> Path:
    """Return the path of the file with the id of a chain's MLflow run."""
    return RECORDS / f"{chain}.json"


def database_path(uri: str) -> Path | None:
    """Return the path of the SQLite database of an MLflow store, None for a server; a relative one begins at HOME."""
    return HOME / uri.removeprefix(_SQLITE) if uri.startswith(_SQLITE) else None


def request_path(path: Path) -> Path:
    """Return the path of the request of the job that makes `path`; see `spn.provenance.results.ask`."""
    return CACHE / "requests" / f"{path}.txt"
