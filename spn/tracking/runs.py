"""Functions for all runs: find or create one, and write only what is new of figures, data and files."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.tracking.client import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT
from mlflow.utils.validation import MAX_DATASET_DIGEST_SIZE

from spn.provenance import Recipe
from spn.tracking.experiment import Experiment
from spn.tracking.outage import TrackingError, reason

_PARAMS_PER_BATCH = 100
"""MLflow's limit."""


def find_run(experiment: Experiment, identity: Mapping[str, str]) -> Run | None:
    """Find the run that has the tags of `identity`, the oldest if there are several."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in identity.items())
    runs = experiment.client.search_runs([experiment.id], query, order_by=["attributes.start_time ASC"], max_results=1)
    return runs[0] if runs else None


def open_run(experiment: Experiment, name: str, identity: Mapping[str, str], source: str) -> Run:
    """Find the run that has the tags of `identity`, or create it with this name and source."""
    with experiment.locked():
        found = find_run(experiment, identity)
        if found is not None:
            return found
        tags = {**identity, "mlflow.source.name": source, "mlflow.source.type": "LOCAL"}
        if dvc_experiment := os.environ.get("DVC_EXP_NAME"):
            tags["dvc_experiment"] = dvc_experiment
        return experiment.client.create_run(experiment.id, run_name=name, tags=tags)


def log_params(client: MlflowClient, run: Run, values: Mapping[str, Any]) -> None:
    """Log a nested mapping under dotted keys, except those that the run has: MLflow never changes a parameter."""
    new = (Param(key, text) for key, text in _flatten(values) if key not in run.data.params)
    while batch := list(islice(new, _PARAMS_PER_BATCH)):
        client.log_batch(run.info.run_id, params=batch)


def log_figures(client: MlflowClient, run: Run, figures: Mapping[str, float]) -> None:
    """Log metrics without steps, except those that the run has with the same value."""
    now = milliseconds()
    new = [Metric(key, value, now, 0) for key, value in figures.items() if run.data.metrics.get(key) != value]
    if new:
        client.log_batch(run.info.run_id, metrics=new)


def log_dataset(client: MlflowClient, run: Run, recipe: Recipe, split: str) -> None:
    """Log the data of a recipe as the input of a run, unless the run has it; `split` says which images are meant."""
    digest = recipe["data_digest"][:MAX_DATASET_DIGEST_SIZE]
    if run.inputs is not None and any(each.dataset.digest == digest for each in run.inputs.dataset_inputs):
        return
    section = recipe["data"]
    dataset = Dataset(section["name"], digest, source_type=section["source"], source=json.dumps(section))
    inputs = [DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, split)])]
    client.log_inputs(run.info.run_id, datasets=inputs)


def log_files(experiment: Experiment, run: Run, files: Mapping[str, Path]) -> None:
    """Save files as artefacts under these names, on a server or in a folder, as the store decides.

    Raises TrackingError if one is refused.
    """
    with tempfile.TemporaryDirectory() as folder:  # MLflow names an artefact after its file
        for name, path in files.items():
            copy = shutil.copyfile(path, f"{folder}/{name}")
            try:
                experiment.client.log_artifact(run.info.run_id, copy)
            except OSError as error:  # includes errors of requests
                raise TrackingError(
                    f"the MLflow store {experiment.uri} took no {name} to {run.info.artifact_uri}: {reason(error)}"
                ) from error


def labels(recipe: Recipe) -> dict[str, str]:
    """Return tags by which the runs of a training are found: its stage, family and data."""
    family = "vq" if "first_stage" in recipe else recipe["model"]["family"]
    return {"stage": recipe["stage"], "family": family, "data": recipe["data"]["name"]}


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a metrics.json."""
    return {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}


def milliseconds() -> int:
    """Return the time in milliseconds since 1970, as MLflow counts it."""
    return int(time.time() * 1000)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", _text(value)))
    return pairs


def _text(value: Any) -> str:
    """Write a parameter; a plain list without brackets, because MLflow spreads JSON over many lines."""
    if isinstance(value, list) and not any(isinstance(each, list | Mapping) for each in value):
        return ", ".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value)
