"""Enumerates all draws of a diffusion's scales: the likelihood that they give images, and their bound on it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from spn.diffusion import transition
from spn.evaluation.mass import AT_ONCE, cells_log_probs, image_log_probs, images_of
from spn.image import split_slices
from spn.models import Model
from spn.stages import Stage
from spn.stages.scale import Scale

Images = UInt8[Tensor, "image height width channel"]
PerDraw = Float64[Tensor, "image earlier later"]
"""For each image, every draw of scale t - 1 and every draw of scale t."""


class Enumerated(NamedTuple):
    """What a diffusion gives to images, in nats."""

    log_probs: Float64[Tensor, " image"]
    """The exact log-probability of the cells that it generates, summed over all draws."""
    bound: Float64[Tensor, " image"]
    """The bound on its negative: the mean of the scales' terms over all draws."""
    errors: dict[str, float]
    """For each scale, how far its part of the bound is from the definition."""


@torch.inference_mode()
def chain_log_probs(
    parts: Sequence[tuple[Stage, Model]], images: Images, labels: Int64[Tensor, " image"]
) -> tuple[Float64[Tensor, " image"], list[Enumerated]]:
    """Return a chain's exact log-probability of each image, in nats, and what its diffusions have in it."""
    found = [enumerate_draws(each, images, labels) for each in _diffusions(parts)]
    others = [(stage, model) for stage, model in parts if not isinstance(stage, Scale)]
    exact = (cells_log_probs(others, images, labels), *(each.log_probs for each in found))
    return torch.stack(exact).sum(0), found


def _diffusions(parts: Sequence[tuple[Stage, Model]]) -> list[list[tuple[Scale, Model]]]:
    """Group the scales of each diffusion of a chain, which follow each other from the last to the first."""
    found: list[list[tuple[Scale, Model]]] = []
    for stage, model in parts:
        if isinstance(stage, Scale):
            if stage.noise.is_last:
                found.append([])
            found[-1].append((stage, model))
    return found


def num_draws(scale: Scale) -> int:
    """Count the pairs of draws of scales t - 1 and t for one image."""
    shape = scale.shape
    return shape.num_levels ** (2 * shape.height * shape.width * shape.channels)


@torch.inference_mode()
def enumerate_draws(
    scales: Sequence[tuple[Scale, Model]], images: Images, labels: Int64[Tensor, " image"]
) -> Enumerated:
    """Enumerate all draws of a diffusion, given its scales from the last to the first."""
    shape = scales[0][0].shape
    grids = images_of(shape.num_levels, (shape.height, shape.width, shape.channels))
    slices = split_slices(images, 1)
    own = scales[0][0].target(slices, torch.zeros(len(images), 2, dtype=torch.long))
    # Of scale t, given the cells that other stages generate; at first uniform noise.
    log_probs = torch.full((len(images), len(grids)), -math.log(len(grids)), dtype=torch.float64)
    bound = torch.zeros(len(images), dtype=torch.float64)
    errors = {}
    for scale, model in scales:
        reverse, terms = _by_draw(scale, model, slices, labels, grids)
        draws = _forward(scale, own, grids)
        expected = (draws * terms).sum((1, 2))
        errors[scale.plan.name] = (expected - _by_definition(scale, draws, reverse)).abs().max().item()
        bound += expected
        log_probs = torch.logsumexp(log_probs[:, None] + reverse, dim=2)
    places = torch.tensor([shape.num_levels**place for place in reversed(range(grids[0].numel()))])
    return Enumerated(log_probs[torch.arange(len(images)), own.flatten(1) @ places], bound, errors)


def _by_draw(scale: Scale, model: Model, slices: Tensor, labels: Tensor, grids: Tensor) -> tuple[PerDraw, PerDraw]:
    """Return log p(x_{t-1} | x_t) and the scale's term, for all draws."""
    sizes = len(slices), len(grids), len(grids)
    rows = torch.cartesian_prod(*(torch.arange(size) for size in sizes))
    log_probs, terms = [], []
    (only,) = scale.targets
    for image, earlier, later in (each.unbind(1) for each in rows.split(AT_ONCE)):
        position = scale.positions(only, len(image))
        classes = labels[image] if scale.plan.num_classes else None
        seen = scale.insert(slices[image], only, grids[later])
        law = model(grids[earlier], scale.context(seen, position, classes))
        log_probs.append(image_log_probs(law, grids[earlier]))
        terms.append(scale.term(model, slices[image], position, classes, grids[earlier], grids[later]))
    return torch.cat(log_probs).view(sizes), torch.cat(terms).view(sizes)


def _forward(scale: Scale, own: Tensor, grids: Tensor) -> PerDraw:
    """Return q(x_{t-1}, x_t | x_0) by the product of the sub-pixels' transitions."""
    noise, num_levels = scale.noise, scale.plan.num_levels
    flat = grids.flatten(1)
    steps = [
        transition(levels.flatten(1), kept, num_levels)[:, torch.arange(flat.shape[1]), flat].prod(-1)
        for levels, kept in ((own, noise.kept[noise.scale - 1]), (grids, noise.survival))
    ]
    return steps[0][:, :, None] * steps[1]


def _by_definition(scale: Scale, draws: PerDraw, reverse: PerDraw) -> Float64[Tensor, " image"]:
    """Return the scale's part of E_q [log q(x_1 .. x_T | x_0) - log p(x_0 .. x_T)], with the posterior by Bayes."""
    posterior = draws / draws.sum(1, keepdim=True)
    of_forward = torch.xlogy(draws, posterior) if scale.noise.scale > 1 else torch.zeros_like(draws)
    return (of_forward - draws * reverse).sum((1, 2))
