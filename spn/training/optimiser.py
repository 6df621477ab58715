"""Optimisers, and the schedule of the learning rate."""

import math

import torch
from torch import nn

from spn.config import AdamW, Muon, RMSProp, TrainingSection
from spn.training import muon


def build_optimiser(model: nn.Module, section: AdamW | Muon | RMSProp) -> torch.optim.Optimizer:
    """Build the optimiser that a training section names; weight decay spares biases and gains.

    With a weight decay of 0 AdamW is Adam.
    """
    if isinstance(section, RMSProp):
        return torch.optim.RMSprop(
            model.parameters(), lr=section.learning_rate, alpha=section.smoothing, momentum=section.momentum
        )
    if isinstance(section, Muon):
        matrices = muon.hidden_matrices(model)
        others = [each for each in model.parameters() if all(each is not matrix for matrix in matrices)]
        relative = section.others_learning_rate / section.learning_rate
        return muon.Muon(matrices, others, section.learning_rate, relative, section.momentum, section.betas)
    # By entries, not dimensions: the gains of a normalised convolution have all dimensions of its weight, but only one
    # with more than one entry.
    parameters = list(model.parameters())
    matrices = [each for each in parameters if each.numel() > max(each.shape, default=1)]
    vectors = [each for each in parameters if each.numel() <= max(each.shape, default=1)]
    groups = [{"params": matrices, "weight_decay": section.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=section.learning_rate, betas=section.betas, fused=True
    )


def learning_rate(section: TrainingSection, step: int) -> float:
    """Return the learning rate of `step`, counted from 0: a linear warm-up, then the schedule."""
    peak = section.optimiser.learning_rate
    if step < section.warmup_steps:
        return peak * (step + 1) / (section.warmup_steps + 1)
    if section.schedule == "constant":
        return peak
    if section.schedule == "exponential":
        return peak * section.decay ** (step - section.warmup_steps)
    progress = (step - section.warmup_steps) / max(1, section.steps - section.warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
