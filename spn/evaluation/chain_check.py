"""Checks that a whole chain is a likelihood: the probabilities of all images sum to one.

Those of a chain with scales of a diffusion are summed over all draws of noise, and its bound is compared with them. The
chain is shrunk until its images can be enumerated. The order in which its stages generate slices and bits stays,
and so does what each of them sees: mistakes in these do not show in any single stage.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch

from spn.config import InputError, ModelSection, PixelCnnPpSection, StagePlan, tile
from spn.config.tiling import Order, SliceSelection, target_slices
from spn.evaluation.check import MOST_IMAGES, TOLERANCE, takes
from spn.evaluation.diffusion_check import Enumerated, chain_log_probs, num_draws
from spn.evaluation.mass import images_of
from spn.evaluation.random_problem import random_model
from spn.models import Model
from spn.stages import Stage, build_stage
from spn.stages.scale import Scale

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class _Cells:
    """The cells of a stage, as its section of params.yaml names them."""

    scale_factor: int
    slices: SliceSelection
    bits: tuple[int, int]
    order: Order


def check_chain(
    chain: str, plans: Sequence[StagePlan], channels: int, sections: Mapping[str, ModelSection], seed: int
) -> str:
    """Check a chain of stages with random weights in float64; return one line on the sum.

    Raises InputError if the probabilities do not sum to one, or if a diffusion's bound is not what it is defined to be.
    """
    smallest = 0
    for small, shape in _shrunk(chain, plans, channels):
        stages = [build_stage(plan, shape) for plan in small]
        smallest = small[0].image_bits * math.prod(shape)
        if max(num_draws(stage) if isinstance(stage, Scale) else 1 for stage in stages) << smallest > MOST_IMAGES:
            continue
        generator = torch.Generator().manual_seed(seed)
        parts = [(stage, _model(sections[stage.plan.name], stage, generator)) for stage in stages]
        images = images_of(1 << small[0].image_bits, shape).to(torch.uint8)
        labels = torch.zeros(len(images), dtype=torch.long)
        log_probs, diffusions = chain_log_probs(parts, images, labels)
        mass = log_probs.exp().sum().item()
        if not abs(mass - 1) <= TOLERANCE:
            raise InputError(f"chains.{chain}: expected the probabilities of all images to sum to 1, got {mass!r}")
        bits = small[0].image_bits
        return (
            f"chain {chain}: normalised (all {len(images):,} images of {'x'.join(map(str, shape))} with "
            f"{bits} bit{'s' if bits > 1 else ''}{_said_of(sections, stages)} sum to 1 {mass - 1:+.1e})"
        ) + "".join(_said_of_bound(sections, each) for each in diffusions)
    return f"chain {chain}: not enumerated, because it can make at least 2^{smallest} images; its stages are checked"


def _said_of_bound(sections: Mapping[str, ModelSection], found: Enumerated) -> str:
    """Say by how much the bound of a diffusion exceeds its negative log-likelihood."""
    # Bounds of a law draw noise of their own.
    if any(sections[name].is_bound for name in found.errors):
        return "; bounds of laws are not compared"
    for name, error in found.errors.items():
        if not error <= TOLERANCE:
            raise InputError(
                f"stages.{name}: expected the bound by its definition, got one that is {error:.3g} nats off"
            )
    least = (found.bound + found.log_probs).min().item()
    if not least >= -TOLERANCE:
        raise InputError(
            f"stages.{next(iter(found.errors))}: expected a bound, got one that is {-least:.3g} nats too low"
        )
    return f"; its bound is at least {abs(least):.2g} nats above, all draws of noise enumerated"


def _shrunk(chain: str, plans: Sequence[StagePlan], channels: int) -> Iterator[tuple[tuple[StagePlan, ...], Shape]]:
    """Yield smaller and smaller forms of a chain: with fewer bits, then fewer pixels per slice, then one channel.

    Each range of bits between neighbouring cuts is reduced to one bit. Scale factors above 1 are divided by their
    greatest common divisor and multiplied by 2.
    """
    cuts = sorted({cut for plan in plans for cut in plan.cuts})
    every_bit = tuple(range(cuts[-1] + 1))
    sides = ((2, 2), (1, 2), (1, 1))
    for num_channels, (height, width), kept in product(
        dict.fromkeys((channels, 1)), sides, dict.fromkeys((every_bit, tuple(cuts)))
    ):
        small = _retiled(chain, plans, kept)
        side = math.lcm(*(plan.scale_factor for plan in small))
        yield small, (height * side, width * side, num_channels)


def _retiled(chain: str, plans: Sequence[StagePlan], cuts: tuple[int, ...]) -> tuple[StagePlan, ...]:
    """Tile a chain again with one bit for each range between neighbouring `cuts`."""
    shared = math.gcd(*(plan.scale_factor for plan in plans if plan.scale_factor > 1))
    cells = {}
    for plan in plans:
        size = plan.scale_factor * 2 // shared if plan.scale_factor > 1 else 1
        bits = cuts.index(plan.bits[0]), cuts.index(plan.bits[1])
        # Slices that remain keep their order.
        order = dict.fromkeys(((0, 0), *((m, n) for m, n in plan.targets if max(m, n) < size)))
        is_whole = plan.targets != ((0, 0),)
        cells[plan.name] = _Cells(size, _slices(plan), bits, tuple(order) if is_whole else "raster")
    tiled = tile(chain, cells, len(cuts) - 1, {plan.name: plan.noise for plan in plans if plan.noise})
    return tuple(
        replace(new, num_classes=old.num_classes, captions=old.captions) for new, old in zip(tiled, plans, strict=True)
    )


def _slices(plan: StagePlan) -> SliceSelection:
    """Return the selection of slices that gives a plan's targets."""
    kinds: tuple[SliceSelection, ...] = ("all", "first", "rest")
    return next(kind for kind in kinds if {*target_slices(kind, plan.scale_factor)} == {*plan.targets})


def _model(section: ModelSection, stage: Stage, generator: torch.Generator) -> Model:
    return random_model(_without_downsampling(section, stage), stage.shape, generator)


def _without_downsampling(section: ModelSection, stage: Stage) -> ModelSection:
    """Switch down-sampling off if slices are too small for it."""
    if isinstance(section, PixelCnnPpSection) and not takes(section, stage.shape):
        return section.model_copy(update={"downsampling": False})
    return section


def _said_of(sections: Mapping[str, ModelSection], stages: Sequence[Stage]) -> str:
    changed = [stage for stage in stages if not takes(sections[stage.plan.name], stage.shape)]
    return ", without down-sampling," if changed else ""
