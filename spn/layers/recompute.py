"""Activation checkpointing (Chen et al. 2016): less memory, more time, the same results."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recomputing(nn.Module):
    """Layers that, with `recompute`, keep only their inputs and compute the rest again in the backward pass."""

    recompute = False

    def run_layer(self, layer: nn.Module, *inputs: Any) -> Any:
        """Apply one layer; dropout is the same when it is computed again."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


def recompute_layers(model: nn.Module) -> None:
    """Make every stack of layers in `model` keep only the inputs of each layer."""
    for module in model.modules():
        if isinstance(module, Recomputing):
            module.recompute = True
