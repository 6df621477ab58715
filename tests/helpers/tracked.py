"""Tiny trainings to record, a store that goes away under them, and what the store holds of them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from experiment import read_history
from mlflow.entities import Run

from spn.provenance import Recipe
from spn.tracking import Experiment, StageRun, open_experiment
from spn.training.history import history_columns

CURVE = "train_bits_per_dim_estimate"


def open_at(uri: str, handle: Path, name: str = "digits") -> Experiment:
    """Open an experiment as where the environment names a store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        return open_experiment(handle, name)


def recipe(stage: str, width: int = 8) -> Recipe:
    return {
        "stage": stage,
        "seed": 1,
        "plan": {"scale_factor": 2, "slices": "all", "bits": [0, 5], "targets": [[0, 0]]},
        "model": {"family": "spn", "width": width},
        "training": {"steps": 100, "betas": [0.9, 0.99]},
        "data": {"source": "digits", "name": "digits"},
        "data_digest": "d" * 64,
    }


WEIGHTS = Path(__file__)
"""A file in place of a checkpoint, of which runs keep a copy."""


def open_stage(experiment: Experiment, stage: str) -> StageRun:
    return StageRun(experiment, stage, recipe(stage), num_parameters=7, checkpoint=WEIGHTS)


def rows(last: int) -> list[dict[str, float | int]]:
    return [{"step": step, CURVE: 9.0 - step, "learning_rate": 0.1} for step in range(1, last + 1)]


def logged(experiment: Experiment, run_id: str, key: str = CURVE) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in experiment.client.get_metric_history(run_id, key)]


def expected(last: int) -> list[tuple[int, float]]:
    return [(step, 9.0 - step) for step in range(1, last + 1)]


def runs(experiment: Experiment, name: str) -> list[Run]:
    return list(experiment.client.search_runs([experiment.id], f"attributes.run_name = '{name}'"))


def assert_recorded(experiment: Experiment, stage: str, history: Path) -> None:
    """The stage has one run, finished, with every value of its history.csv once."""
    (run,) = runs(experiment, stage)
    assert run.info.status == "FINISHED"
    measured = read_history(history)
    for column in history_columns()[1:]:
        points = [(int(row["step"]), row[column]) for row in measured if column in row]
        assert logged(experiment, run.info.run_id, column) == points, column


@contextmanager
def away(experiment: Experiment) -> Iterator[None]:
    """Take the folder of an SQLite store away, as when a file system is gone: SQLite refuses to write."""
    folder = Path(experiment.uri.removeprefix("sqlite:///")).parent
    elsewhere = folder.rename(folder.with_name(f"{folder.name}-away"))
    try:
        yield
    finally:
        elsewhere.rename(folder)


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is so, and fail after two minutes."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def train_stage(experiment: Experiment, stage: str, last: int = 3) -> str:
    with open_stage(experiment, stage) as run:
        for row in rows(last):
            run.measured(row)
    return run.run_id
