"""The Subscale Pixel Network (Menick & Kalchbrenner 2018, Fig. 4): slice embedder and masked decoder.

All slices of a stage share one embedder and one decoder. With S = 1 and all bits there is no context and no embedder:
this is the paper's decoder-only baseline. A discretised mixture of logistics may replace the paper's softmax.

NOTE: the paper states the parts and their order, but no sizes; blocks, norms, positions and widths are ours.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spn.config import SpnSection
from spn.laws import build_stacked_head, stacked_head_steps
from spn.layers import (
    EmbeddedPixel,
    GatedStacks,
    GatedStacksSteps,
    PixelLinear,
    RasterTransformer,
    Scale,
    TransformerSteps,
    build_intensity,
    fold_weight_norm,
    raster_shift,
)
from spn.likelihood import Law
from spn.models.interface import Context, Model, StageShape, Steps, build_embedder, copy_into_buffer, embed
from spn.shapes import Features, Levels


class SubscalePixelNetwork(Model):
    """Slice embedder, then attention, then masked convolutions, then a law per sub-pixel."""

    def __init__(self, section: SpnSection, shape: StageShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedder = build_embedder(section, shape, section.width, shape.num_classes)
        self.to_transformer = bool(self.embedder) and section.context_enters in ("transformer", "both")
        self.to_pixelcnn = bool(self.embedder) and section.context_enters in ("pixelcnn", "both")
        self.scale = Scale(shape.num_levels, shape.high_levels)
        self.intensity = build_intensity(section.intensity, shape.num_levels, section.intensity_units)
        self.entry = nn.Linear(shape.channels * self.intensity.units, section.width)
        self.transformer = RasterTransformer(
            section.width,
            section.heads,
            section.transformer_layers,
            shape.height,
            shape.width,
            section.dropout,
        )
        masks_channels = section.channel_order == "masks"
        head = build_stacked_head(
            section.law, section.pixelcnn_width, shape.channels, self.scale, section.mixtures, masks_channels
        )
        self.pixelcnn = GatedStacks(
            self.intensity.units,
            section.pixelcnn_width,
            section.pixelcnn_layers,
            shape.channels,
            num_conditions=(section.width if self.to_pixelcnn else 0, section.width),
            head=head,
            dropout=section.dropout,
        )

    def embed_target(self, levels: Levels) -> Float[Tensor, "batch height width channel units"]:
        """Turn the target's levels into numbers, sub-pixel by sub-pixel: the intensity, and the value for the head."""
        embedded = self.intensity(levels, torch.ones_like(levels, dtype=torch.bool))
        return torch.cat((embedded, self.scale.embed(levels, embedded.dtype)[..., None]), dim=-1)

    def embed_context(self, context: Context) -> Features | None:
        """Run the slice embedder; None for a stage without context."""
        return embed(self.embedder, context)

    def laws(
        self,
        embedded: Float[Tensor, "batch height width channel units"],
        embedded_context: Features | None,
        context: Context,
    ) -> Law:
        """Attend over the pixels before, then convolve over these and the channels before (Fig. 4b)."""
        intensity, values = embedded[..., :-1], embedded[..., -1]
        # Token t holds pixel t - 1, all its channels, and the context of pixel t.
        tokens = self.entry(raster_shift(intensity.flatten(-2)))
        attended = self.transformer(tokens + embedded_context if self.to_transformer else tokens)
        beside = attended + embedded_context if self.to_pixelcnn else attended
        return self.pixelcnn(intensity, values, (embedded_context, beside), context.high)


class SubscaleSteps(Steps):
    """The step form: the embedder runs once per slice, the vertical stack once per row, attention once per pixel."""

    def __init__(self, model: SubscalePixelNetwork, batch: int) -> None:
        shape = model.shape
        self.model = model
        levels = torch.arange(shape.num_levels, device=model.entry.weight.device)
        table = model.embed_target(levels.view(-1, 1, 1, 1)).flatten(0, 3)[:, :-1]
        self._pixel = EmbeddedPixel(table, batch, shape.channels)
        self._previous = torch.zeros_like(self._pixel.values)
        self._entry = PixelLinear(model.entry.weight, model.entry.bias)
        self._embedded_context: Features | None = None
        self._high: Tensor | None = None
        self._transformer = TransformerSteps(model.transformer, batch)
        head = stacked_head_steps(model.pixelcnn.head, batch)
        self._pixelcnn = GatedStacksSteps(model.pixelcnn, head, self._pixel.values, shape.width)

    def begin(self, context: Context) -> None:
        """Begin a batch of slices, given their context."""
        self._embedded_context = copy_into_buffer(self._embedded_context, self.model.embed_context(context))
        self._high = copy_into_buffer(self._high, context.high)
        self._pixelcnn.begin(self._high)
        # No pixel precedes the first: its token is zero, not the embedding of a level.
        self._previous.zero_()

    def start_row(self, row: int) -> None:
        """Begin a row, all rows before it being known."""
        context = None if self._embedded_context is None else self._embedded_context[:, row]
        self._transformer.start_row(row, context if self.model.to_transformer else None)
        to_pixelcnn = context if self.model.to_pixelcnn else None
        self._pixelcnn.start_row(row, (to_pixelcnn, to_pixelcnn))

    def start_pixel(self, column: int) -> None:
        """Begin a pixel of the row, all before it being known."""
        attended = self._transformer.step(column, self._entry(self._previous))
        self._pixelcnn.start_pixel(column, attended)

    def law(self, channel: int) -> Law:
        """Return the laws of a channel of the pixel, all before it being known."""
        return self._pixelcnn.law(channel)

    def observe(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Fill in a channel of the pixel."""
        self._pixel.observe(channel, levels)
        self._pixelcnn.observe(channel, levels)
        if self._pixel.is_last(channel):
            self._previous.copy_(self._pixel.values)
            self._pixelcnn.end_pixel()


def build(section: SpnSection, shape: StageShape) -> SubscalePixelNetwork:
    """Build the family for a stage of this shape."""
    return SubscalePixelNetwork(section, shape)


def steps(model: SubscalePixelNetwork, batch: int) -> SubscaleSteps:
    """Build the step form, whose weights have their normalisation folded in."""
    return SubscaleSteps(fold_weight_norm(model), batch)
