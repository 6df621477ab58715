"""PixelSNAIL (Chen et al. 2018): gated residual convolutions, and attention over all pixels before.

There is one down-right-shifted stream at one resolution. A block has some gated residual blocks and then attention,
with keys and values from the image, the features and the coordinates, and queries from the features and coordinates.

NOTE: the paper has no context. In ours, a linear map of the slice embedder's output, pixel-aligned, is added to the
start of the stream. A class enters every convolutional block, as in PixelCNN++.
"""

from typing import cast

from jaxtyping import Float, Int
from torch import Tensor, nn

from spn.config import PixelSnailSection
from spn.laws import build_head, head_steps
from spn.layers import (
    GatedResnet,
    GatedResnetSteps,
    Recomputing,
    Scale,
    ShiftedStart,
    ShiftedStartSteps,
    StrictAttention,
    StrictAttentionSteps,
    coordinates,
    fold_weight_norm,
    with_ones,
)
from spn.likelihood import Law
from spn.models.interface import Context, Model, StageShape, Steps, build_embedder, copy_into_buffer, embed, one_hot
from spn.shapes import Coordinates, Features, Levels, OneHot, Pixel


class Block(nn.Module):
    """Gated residual blocks, attention, and a gated block that merges its output into the stream."""

    def __init__(self, section: PixelSnailSection, num_image: int, num_classes: int) -> None:
        super().__init__()
        width, dropout = section.width, section.dropout
        self.resnets = nn.ModuleList(
            GatedResnet(width, (2, 2), 0, num_classes, dropout) for _ in range(section.resnets)
        )
        self.attention = StrictAttention(num_image, width, section.key_width, section.value_width, dropout)
        self.merge = GatedResnet(width, (1, 1), section.value_width, 0, dropout)

    def forward(self, features: Features, image: Features, coordinates: Coordinates, label: OneHot | None) -> Features:
        """Advance the stream."""
        for resnet in self.resnets:
            features = resnet(features, [], label)
        return self.merge(features, [self.attention(image, features, coordinates)], None)


class PixelSnail(Recomputing, Model):
    """The stream, and a head on it."""

    def __init__(self, section: PixelSnailSection, shape: StageShape) -> None:
        super().__init__()
        self.shape = shape
        width, channels = section.width, shape.channels
        self.scale = Scale(shape.num_levels, shape.high_levels)
        self.embedder = build_embedder(section, shape, width)
        self.context = nn.Linear(width, width, bias=False) if self.embedder else None
        self.start = ShiftedStart(channels + 1, width)
        self.blocks = nn.ModuleList(Block(section, channels + 1, shape.num_classes) for _ in range(section.blocks))
        self.head = build_head(section.law, width, channels, self.scale, section.mixtures)
        self.register_buffer("coordinates", coordinates(shape.height, shape.width), persistent=False)

    def embed_target(self, levels: Levels) -> Float[Tensor, "batch height width channel 1"]:
        """Scale the target's levels to [-1, 1]."""
        return self.scale.embed(levels, next(self.parameters()).dtype)[..., None]

    def embed_context(self, context: Context) -> Features | None:
        """Run the slice embedder; None for a stage without cells of context."""
        return embed(self.embedder, context)

    def laws(
        self,
        embedded: Float[Tensor, "batch height width channel 1"],
        embedded_context: Features | None,
        context: Context,
    ) -> Law:
        """Run the stream; the head makes the laws from it."""
        values, label = embedded[..., 0], one_hot(context, self.shape, embedded.dtype)
        image = with_ones(values)
        stream = self.start(image)
        if self.context:
            stream = stream + self.context(embedded_context)
        for block in self.blocks:
            stream = self.run_layer(block, stream, image, self.get_buffer("coordinates"), label)
        return self.head(stream, values, context.high)


class PixelSnailSteps(Steps):
    """The step form: the stream runs once per pixel; attention has a key-value cache."""

    def __init__(self, model: PixelSnail, batch: int) -> None:
        shape = model.shape
        self.model = model
        self._start = ShiftedStartSteps(model.start, model.scale, batch, shape.width)
        self._blocks = [
            _BlockSteps(cast(Block, block), model.get_buffer("coordinates"), batch, shape.width)
            for block in model.blocks
        ]
        self._head = head_steps(model.head, batch)
        self._embedded_context: Features | None = None
        self._high: Tensor | None = None
        self._label: OneHot | None = None

    def begin(self, context: Context) -> None:
        """Begin a batch of slices, given their context."""
        model = self.model
        self._embedded_context = copy_into_buffer(self._embedded_context, model.embed_context(context))
        self._high = copy_into_buffer(self._high, context.high)
        self._label = copy_into_buffer(self._label, one_hot(context, model.shape, self._start.features.dtype))
        for block in self._blocks:
            block.begin(self._label)

    def start_row(self, row: int) -> None:
        """Begin a row, all rows before it being known."""
        self._row = row
        context = self.model.context
        beside = None if context is None or self._embedded_context is None else context(self._embedded_context[:, row])
        self._start.start_row(row, beside)
        for block in self._blocks:
            block.start_row(row)

    def start_pixel(self, column: int) -> None:
        """Begin a pixel of the row, all before it being known."""
        self._column = column
        stream = self._start.pixel(column)
        for block in self._blocks:
            stream = block.step(column, stream)
        self._head.start(stream, None if self._high is None else self._high[:, self._row, column])

    def law(self, channel: int) -> Law:
        """Return the laws of a channel of the pixel, all before it being known."""
        return self._head.law(channel)

    def observe(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Fill in a channel of the pixel."""
        self._start.observe(self._column, channel, levels)
        self._head.observe(channel, levels)
        if channel + 1 == self.model.shape.channels:
            for block in self._blocks:
                block.remember(self._column, self._start.inputs(self._column))


class _BlockSteps:
    """The step form of a `Block`."""

    def __init__(self, block: Block, coordinates: Coordinates, batch: int, columns: int) -> None:
        self._resnets = [GatedResnetSteps(cast(GatedResnet, each), 0, batch, columns) for each in block.resnets]
        self._attention = StrictAttentionSteps(block.attention, coordinates, batch)
        self._merge, self._columns = block.merge, columns

    def begin(self, label: OneHot | None) -> None:
        for resnet in self._resnets:
            resnet.begin(label)

    def start_row(self, row: int) -> None:
        self._first = row * self._columns
        for resnet in self._resnets:
            resnet.start_row(None)

    def step(self, column: int, stream: Pixel) -> Pixel:
        for resnet in self._resnets:
            stream = resnet.step(column, stream)
        self._asked = stream
        return self._merge(stream, [self._attention.step(self._first + column, stream)], None)

    def remember(self, column: int, image: Pixel) -> None:
        self._attention.remember(self._first + column, image, self._asked)


def build(section: PixelSnailSection, shape: StageShape) -> PixelSnail:
    """Build the family for a stage of this shape."""
    return PixelSnail(section, shape)


def steps(model: PixelSnail, batch: int) -> PixelSnailSteps:
    """Build the step form, whose weights have their normalisation folded in."""
    return PixelSnailSteps(fold_weight_norm(model), batch)
