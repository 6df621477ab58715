"""Loads a trained stage for sampling or evaluation."""

from pathlib import Path

import torch
from torch import Tensor

from spn.checkpoint import load_weights
from spn.config import Params
from spn.models import Model, build_model
from spn.provenance import stage_recipe
from spn.stages import Stage, build_stage


def load_trained(
    params: Params, name: str, data_digest: str, checkpoint: Path, device: torch.device
) -> tuple[Stage, Model]:
    """Build stage `name` with the weights of `checkpoint`, in evaluation mode.

    Raises InputError unless the checkpoint has exactly the recipe of `params` and the data.
    """
    weights = load_weights(checkpoint, stage_recipe(params, name, data_digest))
    return build_trained(params, name, weights, device)


def build_trained(params: Params, name: str, weights: dict[str, Tensor], device: torch.device) -> tuple[Stage, Model]:
    """Build stage `name` with these weights, in evaluation mode; raise RuntimeError if they do not fit the network."""
    stage = build_stage(params.stage_plans[name], params.data.shape, device)
    model = build_model(params.stages[name].model, stage.shape)
    model.load_state_dict(weights)
    return stage, model.to(device).eval().requires_grad_(False)
