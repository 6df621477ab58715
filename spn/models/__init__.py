"""Model families, one file each: p(target slice | context)."""

import importlib

import torch

from spn.config import ModelSection
from spn.models.interface import Context, Model, StageShape, Steps

__all__ = ["Context", "Model", "StageShape", "Steps", "build_model", "num_parameters"]


def build_model(section: ModelSection, shape: StageShape) -> Model:
    """Build the family that `section` names, freshly initialised from torch's global generator.

    The module is imported by name, so that a stage's code digest covers only its own family.
    """
    model: Model = importlib.import_module(f"spn.models.{section.family}").build(section, shape)
    model.family = section.family
    return model


def num_parameters(section: ModelSection, shape: StageShape) -> int:
    """Count a model's parameters without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(section, shape).parameters())
