"""Sums the probabilities of all outcomes of a likelihood, by enumeration; the sum must be one."""

from collections.abc import Iterable
from itertools import product

import torch
from torch import Tensor

from spn.image import split_slices
from spn.likelihood import DequantisedMixture, Law
from spn.models import Context, Model
from spn.stages import Stage

AT_ONCE = 1024
"""Images per batch."""


def images_of(num_levels: int, shape: tuple[int, ...]) -> Tensor:
    """Enumerate every array of `shape` with levels 0 .. num_levels - 1; shaped [count, *shape]."""
    size = torch.Size(shape).numel()
    return torch.tensor(list(product(range(num_levels), repeat=size))).view(-1, *shape)


@torch.inference_mode()
def model_mass(model: Model, context: Context) -> float:
    """Sum the probabilities of every possible target, given the context of one image."""
    shape = model.shape
    targets = images_of(shape.num_levels, (shape.height, shape.width, shape.channels))
    repeated = context.map(lambda each: each.expand(len(targets), *each.shape[1:]))
    return image_log_probs(model(targets, repeated), targets).exp().sum().item()


@torch.inference_mode()
def cells_log_probs(parts: Iterable[tuple[Stage, Model]], images: Tensor, labels: Tensor) -> Tensor:
    """Return the log-probability that stages give each image, [batch], in nats, summed in float64.

    `labels` are the images' classes, for class-conditional stages.
    """
    total = torch.zeros(len(images), dtype=torch.float64)
    for stage, model in parts:
        slices = split_slices(images, stage.plan.scale_factor)
        for target in stage.targets:
            for rows in torch.arange(len(images)).split(AT_ONCE):
                position = stage.positions(target, len(rows))
                classes = labels[rows] if stage.plan.num_classes else None
                levels = stage.target(slices[rows], position)
                total[rows] += image_log_probs(model(levels, stage.context(slices[rows], position, classes)), levels)
    return total


def image_log_probs(law: Law, levels: Tensor) -> Tensor:
    """Return the log-probability of each slice of levels; for a dequantised mixture, that of the discretised one."""
    if isinstance(law, DequantisedMixture):
        scores = law.probs().gather(-1, levels[..., None])[..., 0].log()
    else:
        scores = law.log_prob(levels)
    return scores.flatten(1).sum(1, dtype=torch.float64)
