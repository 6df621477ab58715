"""A chain as an MLflow model, which predicts bits/dim.

MLflow runs this file where the model is loaded ("models from code"), so that nothing is pickled:
`mlflow.pyfunc.load_model("models:/m-...").predict(images)`, images being uint8 [N, H, W, C].
"""

from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc.model import PythonModel, PythonModelContext

import spn

FILE = __file__
MODEL, LABEL = "model", "label"
"""Names of the artefact with the model file, and of the parameter with the class of all images."""
UNSTATED = -1
"""The class if none is stated; MLflow wants a default of every parameter."""


class ChainPredictor(PythonModel):
    """Predicts the bits/dim of images."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model file."""
        self.model = spn.load(context.artifacts[MODEL])

    def predict(
        self,
        context: PythonModelContext,
        model_input: np.ndarray,  # MLflow warns of arrays that are annotated otherwise
        params: dict[str, Any] | None = None,
    ) -> np.ndarray:
        """Return the bits/dim of images, float64 [N]; `params["label"]` is their class, for conditional chains.

        Raises InputError for images that do not fit, and for a conditional chain without a class.
        """
        label = (params or {}).get(LABEL, UNSTATED)
        return self.model.bits_per_dim(np.asarray(model_input), label=None if label == UNSTATED else label)


def options(num_classes: int) -> dict[str, Any]:
    """Return the parameters of a prediction, with their defaults."""
    return {LABEL: UNSTATED} if num_classes else {}


mlflow.models.set_model(ChainPredictor())
