"""The Gated PixelCNN (van den Oord et al. 2016): two stacks of masked convolutions without a blind spot.

Context conditions the gates of both stacks, pixel-aligned, as in the paper's location-dependent conditioning, with the
slice embedder instead of its deconvolutional network. The class conditions them as a bias of each gate, as in the
paper.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spn.config import GatedPixelCnnSection
from spn.laws import build_stacked_head, stacked_head_steps
from spn.layers import EmbeddedPixel, GatedStacks, GatedStacksSteps, Scale, build_intensity, fold_weight_norm
from spn.likelihood import Law
from spn.models.interface import Context, Model, StageShape, Steps, build_embedder, copy_into_buffer, embed, one_hot
from spn.shapes import Features, Levels


class GatedPixelCnn(Model):
    """Gated masked convolutions, then a law per sub-pixel."""

    def __init__(self, section: GatedPixelCnnSection, shape: StageShape) -> None:
        super().__init__()
        self.shape = shape
        self.scale = Scale(shape.num_levels, shape.high_levels)
        self.intensity = build_intensity(section.intensity, shape.num_levels, section.intensity_units)
        self.embedder = build_embedder(section, shape, section.width)
        num_conditions = (section.width if self.embedder else 0) + shape.num_classes
        masks_channels = section.channel_order == "masks"
        head = build_stacked_head(
            section.law, section.width, shape.channels, self.scale, section.mixtures, masks_channels
        )
        self.pixelcnn = GatedStacks(
            self.intensity.units,
            section.width,
            section.layers,
            shape.channels,
            num_conditions=(num_conditions, num_conditions),
            head=head,
            dropout=section.dropout,
        )

    def embed_target(self, levels: Levels) -> Float[Tensor, "batch height width channel units"]:
        """Turn the target's levels into numbers, sub-pixel by sub-pixel: the intensity, and the value for the head."""
        embedded = self.intensity(levels, torch.ones_like(levels, dtype=torch.bool))
        return torch.cat((embedded, self.scale.embed(levels, embedded.dtype)[..., None]), dim=-1)

    def embed_context(self, context: Context) -> Features | None:
        """Run the slice embedder, and append the class as one-hot planes; None if the stage has neither."""
        embedded = embed(self.embedder, context)
        features = [] if embedded is None else [embedded]
        label = one_hot(context, self.shape, next(self.parameters()).dtype)
        if label is not None:
            features.append(label[:, None, None].expand(-1, self.shape.height, self.shape.width, -1))
        return torch.cat(features, dim=-1) if features else None

    def laws(
        self,
        embedded: Float[Tensor, "batch height width channel units"],
        embedded_context: Features | None,
        context: Context,
    ) -> Law:
        """Convolve over the pixels before and the channels before."""
        conditions = embedded_context, embedded_context
        return self.pixelcnn(embedded[..., :-1], embedded[..., -1], conditions, context.high)


class GatedPixelCnnSteps(Steps):
    """The step form: the vertical stack runs once per row, maps masked by channel once per channel."""

    def __init__(self, model: GatedPixelCnn, batch: int) -> None:
        shape = model.shape
        self.model = model
        levels = torch.arange(shape.num_levels, device=next(model.parameters()).device)
        table = model.embed_target(levels.view(-1, 1, 1, 1)).flatten(0, 3)[:, :-1]
        self._pixel = EmbeddedPixel(table, batch, shape.channels)
        self._embedded_context: Features | None = None
        self._high: Tensor | None = None
        head = stacked_head_steps(model.pixelcnn.head, batch)
        self._pixelcnn = GatedStacksSteps(model.pixelcnn, head, self._pixel.values, shape.width)

    def begin(self, context: Context) -> None:
        """Begin a batch of slices, given their context."""
        self._embedded_context = copy_into_buffer(self._embedded_context, self.model.embed_context(context))
        self._high = copy_into_buffer(self._high, context.high)
        self._pixelcnn.begin(self._high)

    def start_row(self, row: int) -> None:
        """Begin a row, all rows before it being known."""
        of_row = None if self._embedded_context is None else self._embedded_context[:, row]
        self._pixelcnn.start_row(row, (of_row, of_row))

    def start_pixel(self, column: int) -> None:
        """Begin a pixel of the row, all before it being known."""
        self._pixelcnn.start_pixel(column)

    def law(self, channel: int) -> Law:
        """Return the laws of a channel of the pixel, all before it being known."""
        return self._pixelcnn.law(channel)

    def observe(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Fill in a channel of the pixel."""
        self._pixel.observe(channel, levels)
        self._pixelcnn.observe(channel, levels)
        if self._pixel.is_last(channel):
            self._pixelcnn.end_pixel()


def build(section: GatedPixelCnnSection, shape: StageShape) -> GatedPixelCnn:
    """Build the family for a stage of this shape."""
    return GatedPixelCnn(section, shape)


def steps(model: GatedPixelCnn, batch: int) -> GatedPixelCnnSteps:
    """Build the step form, whose weights have their normalisation folded in."""
    return GatedPixelCnnSteps(fold_weight_norm(model), batch)
