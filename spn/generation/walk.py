"""The walk over a slice: it offers the law of the next sub-pixel, and is given its value.

Pixels are taken in raster order. This is the last part of the order of Menick & Kalchbrenner 2018, Fig. 3; the first
parts, stages and slices, are in `config/tiling.py`.

Everything that draws or scores drives this walk (`offers`), so nothing can disagree about order or context. The `Steps`
decide whether a law comes from a whole pass over the slice or from caches.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from spn.likelihood import Law
from spn.models import Context, Model, Steps
from spn.shapes import Levels

Given: TypeAlias = Num[Tensor, "batch height width channel"]
Choose: TypeAlias = Callable[[Law, Tensor], Tensor]
"""Chooses levels [batch], given the laws [batch] of a sub-pixel and its `given` values."""


@dataclass
class Offer:
    """The laws of one sub-pixel of every slice of a batch; it must be given levels before the next is offered."""

    row: int
    column: int
    channel: int
    law: Law
    """Laws [batch]."""
    levels: Int[Tensor, " batch"] | None = None
    """The levels that were given."""

    def give(self, levels: Int[Tensor, " batch"]) -> None:
        """Give the levels."""
        self.levels = levels


def offers(steps: Steps, rows: Iterable[int], width: int, channels: int) -> Iterator[Offer]:
    """Offer the sub-pixels of some rows in raster order, channels innermost; all rows above the first are known.

    `steps` must have begun. Every law is the one that the model's `forward` returns for the levels given so far.
    """
    for row in rows:
        steps.start_row(row)
        for column in range(width):
            yield from _offers_of_pixel(steps, row, column, channels)


def _offers_of_pixel(steps: Steps, row: int, column: int, channels: int) -> Iterator[Offer]:
    steps.start_pixel(column)
    for channel in range(channels):
        offer = Offer(row, column, channel, steps.law(channel))
        yield offer
        if offer.levels is None:
            raise RuntimeError(f"row {row}, column {column}, channel {channel}: expected levels, was given none")
        steps.observe(channel, offer.levels)


def _drive(offered: Iterator[Offer], given: Iterable[Tensor], choose: Choose) -> Int[Tensor, "batch _"]:
    """Give to each sub-pixel the level that `choose` returns for its law and its `given` value."""
    chosen = []
    for offer, here in zip(offered, given, strict=True):
        chosen.append(choose(offer.law, here))
        offer.give(chosen[-1])
    return torch.stack(chosen, dim=1)


@torch.inference_mode()
def walk(steps: Steps, context: Context, given: Given, choose: Choose) -> Levels:
    """Traverse slices and return the level that `choose` returns for each sub-pixel.

    `given` holds a value for each sub-pixel: a uniform to sample with, or a level to score.
    """
    steps.begin(context)
    return torch.stack([walk_row(steps, row, here, choose) for row, here in enumerate(given.unbind(1))], dim=1)


def walk_row(
    steps: Steps, row: int, given: Num[Tensor, "batch width channel"], choose: Choose
) -> Int[Tensor, "batch width channel"]:
    """Traverse one row; all rows above are known."""
    _, width, channels = given.shape
    return _drive(offers(steps, [row], width, channels), given.flatten(1).unbind(1), choose).view(given.shape)


def walk_pixel(
    steps: Steps, row: int, column: int, given: Num[Tensor, "batch channel"], choose: Choose
) -> Int[Tensor, "batch channel"]:
    """Traverse one pixel of a row that has begun, channel by channel."""
    return _drive(_offers_of_pixel(steps, row, column, given.shape[1]), given.unbind(1), choose)


def replay(steps: Steps, context: Context, levels: Levels) -> Float[Tensor, "batch height width channel"]:
    """Walk over known levels and return the log-probability of each, in nats (teacher forcing)."""
    log_probs = []

    def score(law: Law, level: Tensor) -> Tensor:
        log_probs.append(law.log_prob(level))
        return level

    walk(steps, context, levels, score)
    return torch.stack(log_probs, dim=1).view(levels.shape)


class WholePasses(Steps):
    """The plain `Steps`, the reference for the others: every law comes from a whole pass over the slice."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def begin(self, context: Context) -> None:
        """Begin a batch of slices, given their context."""
        shape = self.model.shape
        size = (len(context.cells), shape.height, shape.width, shape.channels)
        self._levels = torch.zeros(size, dtype=torch.long, device=context.cells.device)
        self._context, self._embedded_context = context, self.model.embed_context(context)

    def start_row(self, row: int) -> None:
        """Begin a row."""
        self._row = row

    def start_pixel(self, column: int) -> None:
        """Begin a pixel of the row."""
        self._column = column

    def law(self, channel: int) -> Law:
        """Return the laws of a channel of the pixel."""
        laws = self.model.laws(self.model.embed_target(self._levels), self._embedded_context, self._context)
        return laws.select(self._row, self._column, channel)

    def observe(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Fill in a channel of the pixel."""
        self._levels[:, self._row, self._column, channel] = levels


def build_steps(model: Model, batch: int) -> Steps:
    """Build the step form of a model for batches of `batch` slices, in evaluation mode, with the current weights.

    A model without one is walked by whole passes: the same laws, more slowly.
    """
    if model.family is None:
        return WholePasses(model)
    # Imported by name, so that only the code digests of samples cover step forms.
    family = importlib.import_module(f"spn.models.{model.family}")
    return family.steps(model, batch) if hasattr(family, "steps") else WholePasses(model)
