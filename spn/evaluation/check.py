"""Checks that a model is a likelihood: nothing leaks, and probabilities sum to one.

Causality within a slice is tested by autograd in float64: how a law depends on each sub-pixel. Leaks between slices and
between stages are tested on the stage's contexts, by changing the bits that are not yet known. Normalisation is tested
by enumerating a stage's targets, and all images of a whole chain.
"""

from collections.abc import Iterator
from dataclasses import fields, replace

import torch
from torch import Tensor

from spn.config import InputError, ModelSection, StagePlan
from spn.evaluation.dependence import Sight, dependence, sight
from spn.evaluation.mass import model_mass
from spn.evaluation.random_problem import random_problem
from spn.models import Context, StageShape
from spn.stages import Stage, build_stage

MOST_IMAGES = 1 << 14
"""Maximum number of images that a check of normalisation enumerates."""

TOLERANCE = 1e-9
"""Maximum deviation from 1 of a sum of probabilities in float64."""


def hidden_bits_leak(stage: Stage, slices: Tensor, generator: torch.Generator) -> list[tuple[int, int]]:
    """List the target slices whose context changes when the bits not yet generated are changed at random.

    `slices` [batch, S, S, h, w, C] are any images; for a causal stage the list is empty.
    """
    plan = stage.plan
    labels = torch.zeros(len(slices), dtype=torch.long) if plan.num_classes else None
    leaking = []
    for number, position in enumerate(stage.targets):
        known = torch.tensor(plan.known)
        for m, n in plan.targets[:number]:
            known[m, n] |= plan.own_mask
        unknown = ((1 << plan.image_bits) - 1 - known)[:, :, None, None, None].to(slices.dtype)
        noise = torch.randint(1 << plan.image_bits, slices.shape, generator=generator).to(slices.dtype)
        changed = slices ^ (noise & unknown)
        positions = stage.positions(position, len(slices))
        if not same_context(*(stage.context(each, positions, labels) for each in (slices, changed))):
            leaking.append(position)
    return leaking


def same_context(one: Context, other: Context) -> bool:
    """Tell whether two contexts are equal in all their fields."""
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(Context)]
    return all(
        torch.equal(left, right) if left is not None and right is not None else left is right for left, right in pairs
    )


def check_stage(plan: StagePlan, shape: tuple[int, int, int], section: ModelSection, seed: int) -> str:
    """Check a configured stage with random weights in float64; return one line on the findings.

    Raises InputError if something leaks or probabilities do not sum to one.
    """
    generator = torch.Generator().manual_seed(seed)
    stage = build_stage(plan, shape)
    slices = _random_slices(stage, shape, generator)
    if leaking := hidden_bits_leak(stage, slices, generator):
        raise InputError(f"stages.{plan.name}: the context of slices {leaking} depends on bits not yet generated")
    small = next(each for each in _small_shapes(stage.shape) if takes(section, each))
    found = dependence(*random_problem(section, small, 8, generator))
    if found.leak:
        raise InputError(f"stages.{plan.name}: a law depends on what comes after it (derivative {found.leak:.3g})")
    mass, what = _mass(section, stage.shape, small, generator)
    if not abs(mass - 1) <= TOLERANCE:
        raise InputError(f"stages.{plan.name}: expected probabilities that sum to 1, got {mass!r}")
    # A narrow network is fast enough on slices of full size, and sees the same pixels as a wide one.
    seen = sight(*random_problem(section.narrowed(shape[2]), stage.shape, 2, generator))
    return (
        f"{plan.name}: causal (largest forbidden derivative {found.leak:g} on {small.height}x{small.width}, "
        f"{found.blind} blind spots; contexts of {len(stage.targets)} slices see no later bit); "
        f"{_said_of(seen, stage.shape)}; normalised ({what} sum to 1 {mass - 1:+.1e})"
    )


def _said_of(seen: Sight | None, shape: StageShape) -> str:
    """Say how far the context of a stage reaches, and count its blind spots."""
    if seen is None:
        return "without context"
    said = f"context reaches {seen.reach} of {max(shape.height, shape.width) - 1} pixels, "
    if not (blind := seen.blind):
        return said + "no blind spot"
    law, pixel = (divmod(each, shape.width) for each in blind[0])
    return said + (
        f"{len(blind):,} of {seen.sees.numel():,} blind spots: the law of pixel {law} does not see that of {pixel}"
    )


def tiny_shapes(shape: StageShape) -> Iterator[StageShape]:
    """Yield smaller and smaller forms of a stage's problem: smaller slices, then fewer levels."""
    for num_levels in dict.fromkeys((shape.num_levels, 2)):
        for height, width in ((2, 2), (1, 2), (1, 1)):
            yield replace(shape, height=height, width=width, num_levels=num_levels)


def _mass(section: ModelSection, shape: StageShape, small: StageShape, generator: torch.Generator) -> tuple[float, str]:
    """Return a sum of probabilities, which must be 1, and a description of it.

    If a family accepts no slice small enough to enumerate all its targets, each law is summed instead, which proves as
    much if no law leaks; the sum farthest from 1 is returned.
    """
    for tiny in tiny_shapes(shape):
        if (count := _num_targets(tiny)) <= MOST_IMAGES and takes(section, tiny):
            model, context, _ = random_problem(section, tiny, 1, generator)
            size = f"{tiny.height}x{tiny.width}x{tiny.channels}"
            return model_mass(model, context), f"all {count} targets of {size} with {tiny.num_levels} levels"
    model, context, levels = random_problem(section, small, 8, generator)
    with torch.inference_mode():
        sums = model(levels, context).probs().double().sum(-1).flatten()
    farthest = sums[(sums - 1).abs().argmax()].item()
    return farthest, f"all {small.num_levels} levels of each sub-pixel of {small.height}x{small.width}x{small.channels}"


def _small_shapes(shape: StageShape) -> Iterator[StageShape]:
    """Yield small forms of a stage's slices; some families need the larger one."""
    for side in (3, 4):
        yield replace(shape, height=min(side, shape.height), width=min(side, shape.width))


def takes(section: ModelSection, shape: StageShape) -> bool:
    """Tell whether a family accepts slices of this shape."""
    return section.problem(shape.height, shape.width, shape.channels) is None


def _num_targets(shape: StageShape) -> int:
    return shape.num_levels ** (shape.height * shape.width * shape.channels)


def _random_slices(stage: Stage, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    scale_factor, small = stage.plan.scale_factor, stage.shape
    dims = (2, scale_factor, scale_factor, small.height, small.width, shape[2])
    return torch.randint(1 << stage.plan.image_bits, dims, generator=generator).to(torch.uint8)
