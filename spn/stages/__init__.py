"""Stages: what each network generates, and given what. One file per kind."""

import importlib

import torch

from spn.config import StagePlan
from spn.stages.cells import CPU, Stage

__all__ = ["Stage", "build_stage"]


def build_stage(plan: StagePlan, shape: tuple[int, int, int], device: torch.device = CPU) -> Stage:
    """Build the stage of a plan, of its kind, for images of `shape` (height, width, channels)."""
    # Imported by name, so that a stage's code digest covers only its own kind.
    stage: Stage = importlib.import_module(f"spn.stages.{plan.kind}").build(plan, shape, device)
    return stage
