"""Where everything lies: every file and folder of an experiment, relative to the folder in which it runs."""

from pathlib import Path

SOURCES = Path("sources")
DATA = Path("data")
RUNS = Path("runs")
RESULTS = Path("results")
CACHE = Path(".cache")

DATABASE = Path("mlflow.db")
HANDLE = Path("mlflow/experiment.json")
RECORDS = Path("mlflow/chains")

CHECKPOINT, HISTORY = "checkpoint.safetensors", "history.csv"
METRICS, NATS = "metrics.json", "nats.npy"
SAMPLES, PICTURE, TIMING = "samples.h5", "samples.png", "timing.json"
REPORT = "report.json"


def slices_path(dataset: str, scale_factor: int | str, data: Path = DATA) -> Path:
    """Name the HDF5 file of the slices under a scale factor."""
    return data / dataset / f"S{scale_factor}.h5"


def stage_folder(stage: str, results: Path = RESULTS) -> Path:
    """Name the folder of a stage's checkpoint, history, metrics and nats."""
    return results / "stages" / stage


def checkpoint_path(stage: str, results: Path = RESULTS) -> Path:
    """Name the file of a stage's weights."""
    return stage_folder(stage, results) / CHECKPOINT


def metrics_path(stage: str, results: Path = RESULTS) -> Path:
    """Name the file of a stage's figures."""
    return stage_folder(stage, results) / METRICS


def chain_folder(chain: str, results: Path = RESULTS) -> Path:
    """Name the folder of a chain's figures, with a folder of samples for each of its stages."""
    return results / "chains" / chain


def samples_path(chain: str, stage: str, results: Path = RESULTS) -> Path:
    """Name the file of a chain's images after a stage."""
    return chain_folder(chain, results) / stage / SAMPLES


def summary_path(chain: str, results: Path = RESULTS) -> Path:
    """Name the file of a chain's figures."""
    return chain_folder(chain, results) / METRICS


def plots_folder(results: Path = RESULTS) -> Path:
    """Name the folder of the report."""
    return results / "plots"


def report_path(results: Path = RESULTS) -> Path:
    """Name the file whose notes vouch for the report."""
    return plots_folder(results) / REPORT


def report_files(stages: tuple[str, ...]) -> tuple[str, ...]:
    """Name the files of a report on these stages, relative to its folder."""
    curves = tuple(f"curves/{stage}.csv" for stage in stages)
    pages = ("table.html", "samples.html")
    return (f"../{METRICS}", "bits_per_dim.csv", "bits_per_dim.png", "curves.png", "real.png", *pages, *curves)


def record_path(chain: str) -> Path:
    """Name the file that says in which run of MLflow a chain is recorded."""
    return RECORDS / f"{chain}.json"


def request_path(path: Path) -> Path:
    """Name the request of the job that makes `path`; see `spn.provenance.results.ask`."""
    return CACHE / "requests" / f"{path}.txt"
