"""The kind and the saved views of an experiment in MLflow's UI.

An experiment of the kind custom_model_development is one of trainings and their runs, not of language models and their
traces. NOTE: MLflow 3.17 and 3.18 show their pages for language models all the same, until someone switches to "Model
training" at the top left, or opens an address with `workflowType=machine_learning`, as all that we print are.

MLflow's table shows no metric until someone picks columns. A saved view is an experiment tag that holds the state of
the table as JSON. MLflow lists the views in a menu, where they can be changed or deleted.
"""

import json
import time
from collections.abc import Mapping

KIND = "mlflow.experimentKind"

CHAINS = "chains"
"""The key of the view of chains, for addresses."""

_METRICS = {
    "chain": (
        "bits_per_dim",
        "standard_error",
        "num_parameters",
        "training_seconds",
        "training_images_per_second",
        "sampling_images_per_second",
    ),
    "stage": (
        "bits_per_dim",
        "standard_error",
        "num_parameters",
        "training_seconds",
        "validation_bits_per_dim_estimate",
    ),
}


def has_kind(tags: Mapping[str, str]) -> bool:
    """Tell whether an experiment has a kind that was chosen, not one that the UI inferred from its content."""
    kind = tags.get(KIND, "")
    return bool(kind) and "inferred" not in kind


def experiment_tags() -> dict[str, str]:
    """Make an experiment's tags: its kind, a view of its chains and one of its stages, lowest bits/dim first."""
    views = {f"mlflow.sharedViewState.{key}": _view(kind) for kind, key in (("chain", CHAINS), ("stage", "stages"))}
    return views | {
        KIND: "custom_model_development",
        "mlflow.experiment.primaryMetric.name": "bits_per_dim",
        "mlflow.experiment.primaryMetric.greaterIsBetter": "False",
    }


def _view(kind: str) -> str:
    now = int(time.time() * 1000)
    state = {
        "searchFilter": f"tags.kind = '{kind}'",
        "orderByKey": "metrics.`bits_per_dim`",
        "orderByAsc": True,
        "selectedColumns": [*(f"metrics.`{name}`" for name in _METRICS[kind]), "tags.`estimate`"],
    }
    view = {"name": f"{kind}s by bits/dim", "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    return json.dumps(view)
