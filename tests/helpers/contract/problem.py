"""What the contract is checked on: a chain of stages, resolved, with models of random weights in float64."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spn.config import FamilySection, SpnSection, StagePlan, tile
from spn.config.captions import Tokens
from spn.config.diffusion import Noise
from spn.config.tiling import Order, SliceSelection
from spn.image import split_slices
from spn.models import Context, Model, StageShape, build_model
from spn.stages import Stage, build_stage

Shape = tuple[int, int, int]
Position = tuple[int, int]


@dataclass(frozen=True)
class Part:
    """The cells of a stage, as its section of params.yaml names them."""

    scale_factor: int
    slices: SliceSelection
    bits: tuple[int, int]
    order: Order = "raster"


Chain = dict[str, Part]

SMALL = SpnSection(
    family="spn",
    width=8,
    heads=2,
    transformer_layers=1,
    pixelcnn_width=24,
    pixelcnn_layers=2,
    embedder_layers=1,
    meta_position_units=2,
    intensity_units=3,
)
"""The smallest network that has every part."""


def chains(high: int, bits: int) -> dict[str, Chain]:
    """Name chains over images of `bits` bits that between them have every kind of stage; `high` bits come first."""
    every, hi, lo = (0, bits), (0, high), (high, bits)
    return {
        "raster": {"raster": Part(1, "all", every)},
        "subscale": {"subscale": Part(2, "all", every)},
        "depth": {"high": Part(1, "all", hi), "low": Part(1, "all", lo)},
        "multidimensional": {
            "first_high": Part(2, "first", hi),
            "rest_high": Part(2, "rest", hi),
            "low": Part(2, "all", lo),
        },
        "size": {"first": Part(2, "first", every), "rest": Part(2, "rest", every)},
        "rest_before_first": {"rest": Part(2, "rest", every), "first": Part(2, "first", every)},
        "low_before_high": {"low": Part(2, "all", lo), "high": Part(2, "all", hi)},
        "low_before_rest": {
            "first_high": Part(2, "first", hi),
            "low": Part(2, "all", lo),
            "rest_high": Part(2, "rest", hi),
        },
        "raster_then_subscale": {"high": Part(1, "all", hi), "low": Part(2, "all", lo)},
        "size_then_raster": {
            "first": Part(2, "first", hi),
            "rest": Part(2, "rest", hi),
            "low": Part(1, "all", lo),
        },
        "uneven": {
            "first": Part(2, "first", every),
            "rest_high": Part(2, "rest", hi),
            "rest_low": Part(2, "rest", lo),
        },
    }


def ordered_chains(high: int, bits: int) -> dict[str, Chain]:
    """Name chains whose stages have orders of their own."""
    every, hi, lo = (0, bits), (0, high), (high, bits)
    other: Order = ((0, 0), (1, 0), (0, 1), (1, 1))
    return {
        "diagonal": {"diagonal": Part(2, "all", every, "diagonal")},
        "diagonal_multidimensional": {
            "first_high": Part(2, "first", hi, "diagonal"),
            "rest_high": Part(2, "rest", hi, "diagonal"),
            "low": Part(2, "all", lo, "diagonal"),
        },
        "orders_mixed": {"high": Part(2, "all", hi, "diagonal"), "low": Part(2, "all", lo, other)},
        "diagonal_rest_before_first": {"rest": Part(2, "rest", every, "diagonal"), "first": Part(2, "first", every)},
        "column_then_raster": {
            "first": Part(2, "first", hi),
            "rest": Part(2, "rest", hi, other),
            "low": Part(1, "all", lo, "diagonal"),
        },
    }


def three_way() -> Chain:
    """Split three bits in three."""
    return {name: Part(2, "all", (bit, bit + 1)) for bit, name in enumerate(("high", "middle", "low"))}


@dataclass(frozen=True)
class Problem:
    """A chain, resolved, with a model for each stage."""

    shape: Shape
    bits: int
    plans: tuple[StagePlan, ...]
    models: tuple[Model, ...]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Return the stages, in the order of the chain."""
        return tuple(build_stage(plan, self.shape) for plan in self.plans)

    @property
    def parts(self) -> Iterator[tuple[Stage, Model]]:
        """Pair the stages with their models."""
        return zip(self.stages, self.models, strict=True)

    def images(self, count: int, seed: int = 5) -> Tensor:
        """Draw images of noise."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(1 << self.bits, (count, *self.shape), generator=generator).to(torch.uint8)

    def labels(self, count: int) -> Tensor | None:
        """Return a class for each image, all of them in turn; None where no stage is class-conditional."""
        num_classes = max(plan.num_classes for plan in self.plans)
        return torch.arange(count) % num_classes if num_classes else None

    def classes_of(self, stage: Stage, labels: Tensor | None) -> Tensor | None:
        """Keep labels from a stage that is not class-conditional."""
        return labels if stage.plan.num_classes else None

    def cases(self, count: int = 2) -> Iterator[tuple[Stage, Model, Position, Tensor, Context]]:
        """Return every target slice of every stage, with the target and context that noise has there.

        A scale of a diffusion sees other noise in place of its own cells.
        """
        for stage, model in self.parts:
            slices = split_slices(self.images(count), stage.plan.scale_factor)
            for position in stage.targets:
                positions, labels = stage.positions(position, count), self.classes_of(stage, self.labels(count))
                target, seen = stage.target(slices, positions), slices
                if stage.plan.noise:
                    seen = stage.insert(slices, position, stage.target(self.images(count, 6)[:, None, None], positions))
                yield stage, model, position, target, stage.context(seen, positions, labels)


def scales(bits: int, kept: tuple[float, ...]) -> tuple[Chain, dict[str, Noise]]:
    """Return the chain of a diffusion over the high bits of images, from its last scale to its first."""
    noises = {f"scale{scale}": Noise(scale, kept) for scale in range(len(kept) - 1, 0, -1)}
    return dict.fromkeys(noises, Part(1, "all", (0, bits))), noises


def resolve(
    chain: Chain,
    shape: Shape,
    bits: int,
    num_classes: int = 0,
    captions: tuple[Tokens, ...] = (),
    noises: Mapping[str, Noise] | None = None,
) -> Problem:
    """Resolve a chain, without models, for checks of stages alone; with `num_classes` they are class-conditional.

    With the `captions` of these classes they are conditioned on them instead. `noises` has the stages that are scales
    of a diffusion.
    """
    tiled = tile("chain", chain, bits, noises)
    plans = tuple(replace(plan, num_classes=num_classes, captions=captions) for plan in tiled)
    return Problem(shape, bits, plans, models=())


def build_problem(
    chain: Chain,
    shape: Shape,
    bits: int,
    section: FamilySection = SMALL,
    num_classes: int = 0,
    captions: tuple[Tokens, ...] = (),
    noises: Mapping[str, Noise] | None = None,
) -> Problem:
    """Resolve a chain and give each stage a model with random weights."""
    problem = resolve(chain, shape, bits, num_classes, captions, noises)
    models = (random_model(section, stage.shape, seed) for seed, stage in enumerate(problem.stages))
    return replace(problem, models=tuple(models))


def random_model(section: FamilySection, shape: StageShape, seed: int) -> Model:
    """Build a model all of whose weights are random, for zeros of the initialisation would hide what leaks."""
    model = build_model(section, shape).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


Check = Callable[[Problem], None]
"""Asserts what sound code promises of a problem."""
