"""A chain is a list of stages whose cells tile the slice x bit grid (Menick & Kalchbrenner 2018, Fig. 3).

The order of Fig. 3 is defined here and in `generation/walk.py`: the stages of a chain in the order of params.yaml, the
`targets` (slices) of a stage in its `order`, which is raster order in the paper, and the pixels of a slice in the order
of the walk.

An image of `image_bits` bits, cut into S x S interleaved slices, is a grid of cells (slice, bit). A stage generates the
cells of some slices in a range of bits, conditioned on all cells generated before. Stages of one chain may have
different scale factors; the grid is then that of their least common multiple.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, runtime_checkable

from spn.config.captions import Tokens
from spn.config.diffusion import Noise
from spn.config.errors import InputError

StageKind = Literal["cells", "ordered", "scale", "reconstruction"]
SliceSelection = Literal["first", "rest", "all"]
MetaPosition = tuple[int, int]
Order = Literal["raster", "diagonal"] | tuple[MetaPosition, ...]


@runtime_checkable
class Cells(Protocol):
    """The keys of a stage's section that say which cells it generates."""

    @property
    def scale_factor(self) -> int: ...  # noqa: D102
    @property
    def slices(self) -> SliceSelection: ...  # noqa: D102
    @property
    def bits(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def order(self) -> Order: ...  # noqa: D102


@dataclass(frozen=True)
class StagePlan:
    """The cells that a stage generates and those that it may see, resolved within its chain.

    `bits` is a half-open range counted from the most significant bit. `targets` are the meta-positions (m, n) of the
    slices to generate, in that order. `known[m][n]` masks the bits of slice (m, n), in the image's own scale, that
    earlier stages generated; bits known only in some pixels of a slice count as unknown.
    """

    name: str
    scale_factor: int
    image_bits: int
    bits: tuple[int, int]
    targets: tuple[MetaPosition, ...]
    known: tuple[tuple[int, ...], ...]
    num_classes: int = 0
    """Number of classes on which the stage is conditioned, as such or by their captions; 0 if it is not."""
    captions: tuple[Tokens, ...] = ()
    """The caption of each class, if the stage is conditioned on these instead of the class itself."""
    kind: StageKind = "cells"
    """The file in `spn/stages/` that cuts its targets and contexts."""
    noise: Noise | None = None
    """The scale of a diffusion that the stage is, if it is one. Above the first scale it generates noised levels, which
    the stage of the next scale sees in place of its own cells and overwrites."""

    @property
    def num_levels(self) -> int:
        """Number of levels of a target sub-pixel."""
        return 1 << (self.bits[1] - self.bits[0])

    @property
    def high_levels(self) -> int:
        """Number of levels of the targets' more significant bits, if all of these are known beforehand; else 1.

        A chain may generate bits out of order, so that more significant ones come later.
        """
        above = bit_mask((0, self.bits[0]), self.image_bits)
        return 1 << self.bits[0] if all(self.known[m][n] & above == above for m, n in self.targets) else 1

    @property
    def own_mask(self) -> int:
        """The generated bits, as a mask in the image's own scale."""
        return bit_mask(self.bits, self.image_bits)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Where the stage cuts the bits."""
        return tuple(sorted({0, *self.bits, self.image_bits}))

    @property
    def reads(self) -> tuple[tuple[int, ...], ...]:
        """For each slice (m, n), mask the bits that decide a target or its context: those known, and its own.

        A known bit always reaches some context: the last target's causal window, or else the high-bit window.
        """
        return tuple(
            tuple(mask | (self.own_mask if (m, n) in self.targets else 0) for n, mask in enumerate(line))
            for m, line in enumerate(self.known)
        )


def bit_mask(bits: tuple[int, int], image_bits: int) -> int:
    """Mask the half-open range `bits`, counted from the most significant of `image_bits`."""
    start, end = bits
    return (1 << (image_bits - start)) - (1 << (image_bits - end))


def ordered_slices(order: Order, scale_factor: int) -> tuple[MetaPosition, ...]:
    """List the meta-positions of all slices in an order, which begins with (0, 0).

    `diagonal` takes the S diagonals of the grid one after another, the main one first and then those to its right,
    which wrap around at the right edge; each from its top: by (n - m) mod S, then by m. With S = 2 these are (0,0),
    (1,1), (0,1), (1,0). (NOTE: ours, as any order but `raster`.)
    """
    if not isinstance(order, str):
        return order
    grid = [(m, n) for m in range(scale_factor) for n in range(scale_factor)]
    return tuple(
        grid if order == "raster" else sorted(grid, key=lambda each: ((each[1] - each[0]) % scale_factor, each))
    )


def target_slices(slices: SliceSelection, scale_factor: int, order: Order = "raster") -> tuple[MetaPosition, ...]:
    """List the meta-positions that `slices` selects, in the order of generation."""
    grid = ordered_slices(order, scale_factor)
    return {"first": grid[:1], "rest": grid[1:], "all": grid}[slices]


def kind_of_cells(targets: tuple[MetaPosition, ...]) -> StageKind:
    """Return the file in `spn/stages/` for targets in this order."""
    return "cells" if list(targets) == sorted(targets) else "ordered"


def tile(
    chain: str, sections: Mapping[str, Cells], image_bits: int, noises: Mapping[str, Noise] | None = None
) -> tuple[StagePlan, ...]:
    """Resolve the stages of `chain`, in the order of `sections`, into plans.

    `noises` has the stages that are scales of a diffusion; only the first of them, of the last scale, adds cells to the
    tiling. Raises InputError naming a cell that the stages leave out or cover twice, or a scale that is missing.
    """
    noises = noises or {}
    _check_scales(chain, sections, noises)
    fine = math.lcm(*(section.scale_factor for section in sections.values()))
    owner: dict[tuple[int, int, int], str] = {}
    known = [[0] * fine for _ in range(fine)]
    plans = []
    for name, section in sections.items():
        targets = target_slices(section.slices, section.scale_factor, section.order)
        plan = StagePlan(
            name=name,
            scale_factor=section.scale_factor,
            image_bits=image_bits,
            bits=section.bits,
            targets=targets,
            known=_coarsen(known, section.scale_factor),
            kind="scale" if name in noises else kind_of_cells(targets),
            noise=noises.get(name),
        )
        plans.append(plan)
        if plan.noise and not plan.noise.is_last:
            continue
        for row in range(fine):
            for column in range(fine):
                if (row % plan.scale_factor, column % plan.scale_factor) not in plan.targets:
                    continue
                for bit in range(*plan.bits):
                    first = owner.setdefault((row, column, bit), name)
                    if first != name:
                        cell = _cell(row, column, fine, bit)
                        raise InputError(f"chains.{chain}.stages: {cell} is covered twice, by {first} and by {name}")
                known[row][column] |= plan.own_mask
    for row in range(fine):
        for column in range(fine):
            for bit in range(image_bits):
                if (row, column, bit) not in owner:
                    raise InputError(
                        f"chains.{chain}.stages: {_cell(row, column, fine, bit)} is left out; the stages "
                        f"({', '.join(sections)}) must cover every slice and all {image_bits} bits"
                    )
    return tuple(plans)


def _check_scales(chain: str, sections: Mapping[str, Cells], noises: Mapping[str, Noise]) -> None:
    """Check that the scales of a schedule follow each other, from the last to the first, on the same cells."""
    names = list(sections)
    for before, name in pairwise(["", *names, ""]):
        expected = noises[before].scale - 1 if before in noises else 0
        same = (
            bool(expected)
            and name in noises
            and _follows(sections[before], noises[before], sections[name], noises[name])
        )
        if expected and not same:
            raise InputError(
                f"chains.{chain}.stages: expected scale {expected} of the same schedule, on the same cells, after "
                f"{before}, got {name or 'the end of the chain'}"
            )
        if not expected and name in noises and not noises[name].is_last:
            raise InputError(
                f"chains.{chain}.stages: expected scale {noises[name].num_scales} first, the last of the schedule, "
                f"got scale {noises[name].scale} in {name}"
            )


def _follows(one: Cells, scale: Noise, other: Cells, next_scale: Noise) -> bool:
    same_cells = (one.scale_factor, one.bits) == (other.scale_factor, other.bits)
    return same_cells and scale.kept == next_scale.kept and scale.scale - 1 == next_scale.scale


def _cell(row: int, column: int, fine: int, bit: int) -> str:
    return f"the cell slice ({row},{column}) of {fine}x{fine}, bit {bit}"


def _coarsen(known: list[list[int]], scale_factor: int) -> tuple[tuple[int, ...], ...]:
    """Return for each slice under `scale_factor` the bits that are known in all its pixels."""
    masks = [[-1] * scale_factor for _ in range(scale_factor)]
    for row, line in enumerate(known):
        for column, mask in enumerate(line):
            masks[row % scale_factor][column % scale_factor] &= mask
    return tuple(tuple(line) for line in masks)
