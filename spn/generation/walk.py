"""The walk over a slice: it offers the law of the next sub-pixel, and is given its value.

Pixels are taken in raster order. This is the last part of the order of Menick & Kalchbrenner 2018, Fig. 3; the first
parts, stages and slices, are in `config/tiling.py`.

Sampling and scoring both drive this walk, so they cannot disagree about order or context. The `Steps` decide whether a
law comes from a whole pass over the slice or from caches.
"""

import importlib
from collections.abc import Callable
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


@torch.inference_mode()
def walk(steps: Steps, context: Context, given: Given, choose: Choose) -> Levels:
    """Traverse slices in raster order, channels innermost, and return the level that `choose` returns for each.

    Every law is the one that the model's `forward` returns for the values chosen so far. `given` holds a value for each
    sub-pixel: a uniform to sample with, or a level to score.
    """
    steps.begin(context)
    return torch.stack([walk_row(steps, row, here, choose) for row, here in enumerate(given.unbind(1))], dim=1)


def walk_row(
    steps: Steps, row: int, given: Num[Tensor, "batch width channel"], choose: Choose
) -> Int[Tensor, "batch width channel"]:
    """Traverse one row; all rows above are known."""
    steps.start_row(row)
    return torch.stack([walk_pixel(steps, *pixel, choose) for pixel in enumerate(given.unbind(1))], dim=1)


def walk_pixel(
    steps: Steps, column: int, given: Num[Tensor, "batch channel"], choose: Choose
) -> Int[Tensor, "batch channel"]:
    """Traverse one pixel of the row, channel by channel."""
    steps.start_pixel(column)
    chosen = []
    for channel, here in enumerate(given.unbind(1)):
        chosen.append(choose(steps.law(channel), here))
        steps.observe(channel, chosen[-1])
    return torch.stack(chosen, dim=1)


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
