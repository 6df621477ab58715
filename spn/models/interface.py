"""The interface between stages and model families. Stages know about upscaling, models do not."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from spn.config import SliceEmbedderSection
from spn.layers import SliceEmbedder, initialised_by_data
from spn.likelihood import Law
from spn.shapes import Features, Levels, OneHot


@dataclass(frozen=True)
class StageShape:
    """The shape of a stage's problem: target slices and cells of context."""

    height: int
    width: int
    channels: int
    num_levels: int
    """Number of levels of a target sub-pixel."""
    num_cells: int
    """Number of cells of context, each a slice at a fixed relative offset; 0 for a stage without context."""
    context_levels: int
    """Number of levels of the cells, which are in the image's own scale; bits not yet known are 0."""
    num_positions: int
    """Number of meta-positions, S * S."""
    high_levels: int = 1
    """Number of levels of the target's more significant bits, if all of these are known beforehand; else 1."""
    num_classes: int = 0
    """Number of classes on which the stage is conditioned; 0 if it is not class-conditional."""
    num_words: int = 0
    """Number of tokens of the captions on which the stage is conditioned; 0 if it is not captioned."""
    caption_length: int = 0
    """Number of tokens of a caption."""
    kept: float | None = None
    """Probability that a level survives from the target's scale of a diffusion to that of the context; None if the
    stage is no scale, or conditioned on none."""


@dataclass(frozen=True)
class Context:
    """Everything that the target is conditioned on, pixel-aligned with it.

    `present` is False for an absent cell (outside the grid of slices, or not yet generated), which differs from
    intensity 0. `high` holds the target's own more significant bits as levels, or None if they are not all known;
    `label` holds the class of each image, or None if the stage is not class-conditional; `caption` holds the tokens of
    its caption, or None if the stage is not captioned.
    """

    cells: Int[Tensor, "batch cell height width channel"]
    present: Bool[Tensor, "batch cell"]
    position: Int[Tensor, " batch"]
    """The target's meta-position (m, n), numbered m * S + n."""
    high: Levels | None = None
    label: Int[Tensor, " batch"] | None = None
    caption: Int[Tensor, "batch word"] | None = None
    noised: Levels | None = None
    """The target's levels at the next scale of a diffusion, if the stage is one; they are among the cells too."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "Context":
        """Return a context with `change` applied to every tensor."""
        return replace(self, **{name: change(each) for name, each in vars(self).items() if each is not None})


class Steps(ABC):
    """The step form of a model: the laws that `forward` returns, one sub-pixel at a time, with caches.

    Call `begin` for each slice, `start_row` for each row, `start_pixel` for each pixel, and for each channel `law`,
    then `observe` with its levels. The caches are buffers that are allocated once.
    """

    @abstractmethod
    def begin(self, context: Context) -> None:
        """Begin a batch of slices, given their context."""

    @abstractmethod
    def start_row(self, row: int) -> None:
        """Begin a row, all rows before it being known."""

    @abstractmethod
    def start_pixel(self, column: int) -> None:
        """Begin a pixel of the row, all before it being known."""

    @abstractmethod
    def law(self, channel: int) -> Law:
        """Return the laws [batch] of a channel of the pixel, all before it being known."""

    @abstractmethod
    def observe(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Fill in a channel of the pixel."""


class Model(nn.Module, ABC):
    """A family of exact likelihoods p(target | context).

    The law of sub-pixel (row, column, channel) depends on the target's sub-pixels strictly before it in raster order,
    channels innermost, and on all of the context. `forward` gives every law at once.
    """

    shape: StageShape
    family: str | None = None
    """The name of its file in `spn/models/`; None for a model built elsewhere."""

    @abstractmethod
    def embed_target(self, levels: Levels) -> Float[Tensor, "batch height width channel units"]:
        """Turn the target's levels into numbers, sub-pixel by sub-pixel."""

    @abstractmethod
    def embed_context(self, context: Context) -> Features | None:
        """Turn the context into features, once per slice; None if there is nothing to embed."""

    @abstractmethod
    def laws(
        self,
        embedded: Float[Tensor, "batch height width channel units"],
        embedded_context: Features | None,
        context: Context,
    ) -> Law:
        """Return the laws of all sub-pixels [batch, height, width, channel], given both embeddings and the context."""

    def initialise(self, levels: Levels, context: Context) -> None:
        """Initialise layers with weight normalisation from a first batch, one after another, in training mode."""
        with initialised_by_data(self):
            self(levels, context).log_prob(levels)

    def forward(self, levels: Levels, context: Context) -> Law:
        """Return the laws of all sub-pixels of `levels` [batch, height, width, channel]."""
        return self.laws(self.embed_target(levels), self.embed_context(context), context)


def build_embedder(
    section: SliceEmbedderSection, shape: StageShape, width: int, num_classes: int = 0
) -> SliceEmbedder | None:
    """Build the slice embedder; None if there is nothing to embed. Pass `num_classes` if the class enters here."""
    if not shape.num_cells and not num_classes:
        return None
    cells = shape.num_cells, shape.channels
    levels, positions = shape.context_levels, shape.num_positions
    return SliceEmbedder(section, width, cells, levels, positions, num_classes, shape.high_levels)


def embed(embedder: SliceEmbedder | None, context: Context) -> Features | None:
    """Run the slice embedder, if there is one."""
    if embedder is None:
        return None
    return embedder(context.cells, context.present, context.position, context.label, context.high)


def one_hot(context: Context, shape: StageShape, dtype: torch.dtype) -> OneHot | None:
    """Turn the images' classes into one-hot vectors; None for a stage that is not class-conditional."""
    return None if context.label is None else F.one_hot(context.label, shape.num_classes).to(dtype)


def copy_into_buffer(before: Tensor | None, now: Tensor | None) -> Tensor | None:
    """Copy `now` into `before`, if there is one, and return the latter: captured CUDA graphs reuse the same memory."""
    return now if before is None or now is None else before.copy_(now)
