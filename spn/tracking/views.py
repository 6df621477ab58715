"""The saved views of an experiment in MLflow's UI.

MLflow's table shows no metric until someone picks columns. A saved view is an experiment tag that holds the state of
the table as JSON. MLflow 3.17 lists the views in a menu, where they can be changed or deleted.
"""

import json
import time

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


def view_tags() -> dict[str, str]:
    """Make the tags of a new experiment: a view of its chains and one of its stages, lowest bits/dim first."""
    views = {f"mlflow.sharedViewState.{kind}s": _view(kind) for kind in _METRICS}
    return views | {
        "mlflow.experimentKind": "custom_model_development",
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
