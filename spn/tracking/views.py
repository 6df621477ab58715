"""The saved views that an experiment opens with in MLflow's UI.

MLflow shows no metric until a person picks columns. A saved view is an experiment tag that holds the state of the
runs table as JSON; the menu "Saved views" of MLflow 3.17 lists them, and a person may change or delete them.
"""

import json
import time

_COLUMNS = {
    "chain": ("bits_per_dim", "standard_error", "num_parameters"),
    "stage": ("bits_per_dim", "standard_error", "validation_bits_per_dim", "train_bits_per_dim", "num_parameters"),
}


def view_tags() -> dict[str, str]:
    """Make the tags of a new experiment: one view for the chains, one for the stages, the lowest bits/dim first."""
    tags = {f"mlflow.sharedViewState.{kind}s": _view(kind) for kind in _COLUMNS}
    # Training runs, not traces of a language model: the UI would otherwise ask.
    return tags | {
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
        "selectedColumns": [f"metrics.`{name}`" for name in _COLUMNS[kind]],
    }
    return json.dumps({"name": f"{kind}s", "createdAt": now, "updatedAt": now, "state": json.dumps(state)})
