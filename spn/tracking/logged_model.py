"""Chains as logged models of MLflow 3: the model file, linked to the chain's run and its figures."""

import contextlib
import hashlib
import io
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import LoggedModelOutput, Run
from mlflow.models import Model, ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import DataType

from spn import __version__
from spn.notes import read_notes
from spn.tracking.experiment import Experiment
from spn.tracking.runs import milliseconds

with warnings.catch_warnings():
    # MLflow warns of its own annotations, and of a method that has none on purpose.
    warnings.filterwarnings(
        "ignore", message=".*(Any type hint is inferred as AnyType|Add type hints to the `predict`)"
    )
    import mlflow.pyfunc

    from spn.tracking.served import FILE, MODEL, options

TYPE = "spn chain"
DIGEST = "spn.file_sha256"
FIGURE = "bits_per_dim"
REQUIREMENTS = ("torch", "numpy", "mlflow")


def log_chain_model(experiment: Experiment, run: Run, chain: str, path: Path) -> str:
    """Log a chain's model file as an MLflow model of its run, with the figure of its weights; return the model's id.

    MLflow makes the figure one of the run as well, so that the run's own must be logged afterwards, if it is another.
    Logging the same file again makes no second model.
    """
    client = experiment.client
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if (logged := run.data.tags.get(_tag(digest))) is not None:
        return str(logged)
    notes, begin = read_notes(path), milliseconds()
    model = client.create_logged_model(
        experiment.id, chain, run.info.run_id, {DIGEST: digest}, _params(notes), model_type=TYPE
    )
    with tempfile.TemporaryDirectory() as folder:
        _save(Path(folder, "model"), path, notes, Model(run_id=run.info.run_id, model_id=model.model_id))
        client.log_model_artifacts(model.model_id, f"{folder}/model")
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    # At the time before the upload, because of two values at the same millisecond MLflow takes the larger.
    figure = float(notes["figures"][FIGURE])
    client.log_metric(run.info.run_id, FIGURE, figure, begin, 0, model_id=model.model_id)
    # Last, so that an interrupted recording is done again.
    client.set_tag(run.info.run_id, _tag(digest), model.model_id)
    return str(model.model_id)


def _tag(digest: str) -> str:
    return f"model.{digest[:16]}"


def _params(notes: Mapping[str, Any]) -> dict[str, str]:
    data = notes["params"]["data"]
    return {"chain": notes["chain"], "data": data["name"], "bits": str(data["bits"]), "weights": notes["weights"]}


def _save(folder: Path, path: Path, notes: Mapping[str, Any], model: Model) -> None:
    """Write the folder of an MLflow model: code from a file, the model file, a signature and an example."""
    height, width, channels = (int(size) for size in notes["shape"])
    example = np.zeros((2, height, width, channels), dtype=np.uint8)
    defaults = options(notes["num_classes"])
    specs = [ParamSpec(name, DataType.long, default) for name, default in defaults.items()]
    signature = ModelSignature(
        Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
        Schema([TensorSpec(np.dtype(np.float64), (-1,))]),
        **({"params": ParamSchema(specs)} if specs else {}),
    )
    # MLflow prints progress of copying one file.
    with contextlib.redirect_stderr(io.StringIO()):
        mlflow.pyfunc.save_model(
            folder,
            python_model=FILE,
            artifacts={MODEL: str(path)},
            signature=signature,
            input_example=(example, dict.fromkeys(defaults, 0)) if defaults else example,
            mlflow_model=model,
            # Stated, because finding them out would load the model in another process.
            pip_requirements=[f"spn=={__version__}", *(f"{name}=={version(name)}" for name in REQUIREMENTS)],
        )
