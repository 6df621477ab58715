"""Tiny trainings to record, and what the store holds of them."""

from pathlib import Path

from mlflow.entities import Run

from spn.provenance import Recipe
from spn.tracking import Experiment, StageRun

CURVE = "train_bits_per_dim_estimate"


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
