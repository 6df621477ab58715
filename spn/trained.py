"""Loads trained networks for sampling, evaluation and encoding."""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from spn.checkpoint import load_weights
from spn.config import Params
from spn.first_stages import VqAutoencoder
from spn.models import Model
from spn.provenance import first_stage_recipe, stage_recipe
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
    plan = params.stage_plans[name]
    assert plan.noise is None or plan.noise.is_measured, "parameters without the shares that the codes' file states"
    stage = build_stage(plan, params.grid(name).shape, device)
    model = stage.build_network(params.stages[name])
    model.load_state_dict(weights)
    return stage, model.to(device).eval().requires_grad_(False)


def load_first_stage(
    params: Params, name: str, data_digest: str, checkpoint: Path, device: torch.device
) -> tuple[Stage, VqAutoencoder]:
    """Build first stage `name` with the weights of `checkpoint`, in evaluation mode; raise InputError as above."""
    return build_first_stage(
        params, name, load_weights(checkpoint, first_stage_recipe(params, name, data_digest)), device
    )


def build_first_stage(
    params: Params, name: str, weights: dict[str, Tensor], device: torch.device
) -> tuple[Stage, VqAutoencoder]:
    """Build first stage `name` with these weights, in evaluation mode."""
    stage = build_stage(params.first_stage_plans[name], params.data.shape, device)
    # By a name in quotes, so that the samples of pixels do not depend on the code of first stages.
    model = cast("VqAutoencoder", stage.build_network(params.first_stages[name]))
    model.load_state_dict(weights)
    return stage, model.to(device).eval().requires_grad_(False)
