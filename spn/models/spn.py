"""The Subscale Pixel Network (Menick & Kalchbrenner 2018, Fig. 4): slice embedder and masked decoder.

One embedder and one decoder are shared by all slices of a stage. Under S = 1 there is no slice before the target, the
embedder falls away, and what remains is the paper's decoder-only baseline.

NOTE: the paper gives the parts and their order but no sizes; blocks, norms, positions and widths are ours.
"""

from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from spn.config import SpnSection
from spn.layers import (
    ChannelCausalLinear,
    ChannelSteps,
    ConvStack,
    GatedLayer,
    GatedLayerSteps,
    PixelLinear,
    RasterTransformer,
    Recomputing,
    TransformerSteps,
    build_intensity,
    down_shift,
    raster_shift,
)
from spn.likelihood import Categorical, Chunked, Head, Law
from spn.models.interface import Context, Model, Signature, Steps

Features = Float[Tensor, "batch height width _"]
Row = Float[Tensor, "batch width _"]
Pixel = Float[Tensor, "batch _"]


class SliceEmbedder(nn.Module):
    """Fig. 4a: the context cells concatenated along depth, to one tensor of the slice's shape.

    NOTE: an empty cell is told from intensity 0 by `Intensity`, and a learned embedding of the meta-position is
    added as planes; both are ours.
    """

    def __init__(self, section: SpnSection, signature: Signature) -> None:
        super().__init__()
        self.intensity = build_intensity(section.intensity, signature.context_levels, section.intensity_units)
        self.position = nn.Embedding(signature.num_positions, section.meta_position_units)
        num_planes = signature.num_cells * signature.channels * self.intensity.units + section.meta_position_units
        self.convs = ConvStack(num_planes, section.width, section.embedder_layers)

    def forward(self, context: Context) -> Features:
        """Embed the context [batch, cell, height, width, channel] as [batch, height, width, feature]."""
        present = context.present[:, :, None, None, None].expand(context.cells.shape)
        planes = rearrange(self.intensity(context.cells, present), "b k h w c e -> b h w (k c e)")
        position = self.position(context.position)[:, None, None].expand(-1, *planes.shape[1:3], -1)
        return self.convs(torch.cat((planes, position), dim=-1))


class GatedPixelCNN(Recomputing):
    """The masked convolutions of the decoder; exact order of pixels and of the channels within each."""

    def __init__(self, section: SpnSection, signature: Signature, units: int, sees_context: bool) -> None:
        super().__init__()
        channels, width = signature.channels, section.pixelcnn_width
        self.layers = nn.ModuleList(
            GatedLayer(
                num_in=width if depth else channels * units,
                width=width,
                num_conditions=(section.width if sees_context else 0, section.width),
                channels=channels,
                first=depth == 0,
                dropout=section.dropout,
            )
            for depth in range(section.pixelcnn_layers)
        )
        self.hidden = ChannelCausalLinear(width, width, channels, strict=False)
        self.logits = ChannelCausalLinear(width, channels * signature.num_levels, channels, strict=False)
        self.channels = channels

    def forward(self, embedded: Features, conditions: tuple[Features | None, Features]) -> Features:
        """Give the features that the head takes; `embedded` has the image's channels outermost in its features."""
        vertical, horizontal = down_shift(embedded), embedded
        for layer in self.layers:
            vertical, horizontal = self.run_layer(layer, vertical, horizontal, conditions)
        return horizontal

    def head(self) -> Head:
        """Give what makes the laws of pixels out of features; the weights are assembled once for all of them."""
        to_hidden, to_logits = self.hidden.dense(), self.logits.dense()

        def laws(features: Float[Tensor, "*batch _"]) -> Categorical:
            logits = F.linear(F.relu(F.linear(F.relu(features), *to_hidden)), *to_logits)
            return Categorical(rearrange(logits, "... (c level) -> ... c level", c=self.channels))

        return laws


class GatedPixelCNNSteps:
    """The step form of a `GatedPixelCNN`; whoever knows the pixel fills in `embedded` [batch, channel * units]."""

    def __init__(self, pixelcnn: GatedPixelCNN, embedded: Pixel, columns: int) -> None:
        self.embedded = inputs = embedded
        self.layers = []
        for layer in pixelcnn.layers:
            self.layers.append(GatedLayerSteps(cast(GatedLayer, layer), inputs, columns))
            inputs = self.layers[-1].outputs
        rectified, hidden = torch.zeros_like(inputs), torch.zeros_like(inputs)
        self._hidden, self._logits = ChannelSteps(pixelcnn.hidden, rectified), ChannelSteps(pixelcnn.logits, hidden)
        self._of_channel = list(
            zip(*(each.chunk(pixelcnn.channels, dim=1) for each in (inputs, rectified, hidden)), strict=True)
        )

    def begin(self) -> None:
        """Forget the slices walked before."""
        for layer in self.layers:
            layer.begin()

    def start_row(self, above: Row, context: Row | None) -> None:
        """Begin a row, given what is embedded of the one above."""
        vertical = above
        for layer in self.layers:
            vertical = layer.start_row(vertical, (context, context))

    def start_pixel(self, column: int, attended: Pixel) -> None:
        """Begin a pixel, given the Transformer's output there."""
        for layer in self.layers:
            layer.start_pixel(column, attended)

    def step(self, channel: int) -> Float[Tensor, "batch num_levels"]:
        """Give the logits of one channel."""
        for layer in self.layers:
            layer.step(channel)
        outputs, rectified, hidden = self._of_channel[channel]
        torch.clamp_min(outputs, 0, out=rectified)
        torch.clamp_min(self._hidden.step(channel), 0, out=hidden)
        return self._logits.step(channel)


class SubscalePixelNetwork(Model):
    """Slice embedder, then attention, then masked convolutions, then a softmax per sub-pixel."""

    def __init__(self, section: SpnSection, signature: Signature) -> None:
        super().__init__()
        self.signature = signature
        self.embedder = SliceEmbedder(section, signature) if signature.num_cells else None
        self.to_transformer = bool(self.embedder) and section.context_enters in ("transformer", "both")
        self.to_pixelcnn = bool(self.embedder) and section.context_enters in ("pixelcnn", "both")
        self.intensity = build_intensity(section.intensity, signature.num_levels, section.intensity_units)
        self.entry = nn.Linear(signature.channels * self.intensity.units, section.width)
        self.transformer = RasterTransformer(
            section.width,
            section.heads,
            section.transformer_layers,
            signature.height,
            signature.width,
            section.dropout,
        )
        self.pixelcnn = GatedPixelCNN(section, signature, self.intensity.units, self.to_pixelcnn)

    def embed_target(
        self, levels: Int[Tensor, "batch height width channel"]
    ) -> Float[Tensor, "batch height width channel units"]:
        """Turn the target's levels into numbers, sub-pixel by sub-pixel."""
        return self.intensity(levels, torch.ones_like(levels, dtype=torch.bool))

    def embed_context(self, context: Context) -> Features | None:
        """Run the slice embedder; None for a stage without context."""
        return self.embedder(context) if self.embedder else None

    def laws(self, embedded: Float[Tensor, "batch height width channel units"], features: Features | None) -> Law:
        """Attend over the pixels before, then convolve over them and the channels before (Fig. 4b)."""
        flat = embedded.flatten(-2)
        # Token t holds pixel t - 1, all its channels, and the context of pixel t.
        tokens = self.entry(raster_shift(flat))
        attended = self.transformer(tokens + features if self.to_transformer else tokens)
        beside = attended + features if self.to_pixelcnn else attended
        return Chunked(self.pixelcnn(flat, (features, beside)), self.pixelcnn.head(), self.pixelcnn.recompute)

    def steps(self, batch: int) -> "SubscaleSteps":
        """Give the step form for batches of so many slices, in evaluation mode, with the weights of now."""
        return SubscaleSteps(self, batch)


class SubscaleSteps(Steps):
    """The step form: embedder once per slice, vertical stack once per row, attention once per pixel."""

    def __init__(self, model: SubscalePixelNetwork, batch: int) -> None:
        shape = model.signature
        self.model = model
        # Elementwise, so that all there is to know of it is a row per level.
        levels = torch.arange(shape.num_levels, device=model.entry.weight.device)
        self._table = model.embed_target(levels.view(-1, 1, 1, 1)).detach().flatten(0, 3)
        embedded = model.entry.weight.new_zeros(batch, shape.channels * self._table.shape[1])
        self._embedded = embedded.chunk(shape.channels, dim=1)
        self._previous = torch.zeros_like(embedded)
        self._row = embedded.new_zeros(batch, shape.width, embedded.shape[1])
        self._pixels = self._row.unbind(1)
        self._entry = PixelLinear(model.entry.weight, model.entry.bias)
        self._features: Features | None = None
        self._transformer = TransformerSteps(model.transformer, batch)
        self._pixelcnn = GatedPixelCNNSteps(model.pixelcnn, embedded, shape.width)

    def begin(self, context: Context) -> None:
        """Begin a batch of slices beside `context`."""
        features = self.model.embed_context(context)
        if self._features is None or features is None:
            self._features = features
        else:
            # In place, because captured graphs read it where it was.
            self._features.copy_(features)
        self._pixelcnn.begin()
        self._row.zero_()
        # Before the first pixel there is none, whose embedding would not be zero.
        self._previous.zero_()

    def start_row(self, row: int) -> None:
        """Begin a row, all rows before it being known."""
        context = None if self._features is None else self._features[:, row]
        self._transformer.start_row(row, context if self.model.to_transformer else None)
        self._pixelcnn.start_row(self._row, context if self.model.to_pixelcnn else None)

    def start_pixel(self, column: int) -> None:
        """Begin a pixel of the row, all before it being known."""
        attended = self._transformer.step(column, self._entry(self._previous))
        self._pixelcnn.start_pixel(column, attended)
        self._column = column

    def law(self, channel: int) -> Law:
        """Give the laws of a channel of the pixel, all before it being known."""
        return Categorical(self._pixelcnn.step(channel))

    def put(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Make a channel of the pixel known."""
        self._embedded[channel].copy_(self._table[levels])
        if channel + 1 == len(self._embedded):
            self._previous.copy_(self._pixelcnn.embedded)
            self._pixels[self._column].copy_(self._previous)


def build(section: SpnSection, signature: Signature) -> SubscalePixelNetwork:
    """Build the family for a stage of this signature."""
    return SubscalePixelNetwork(section, signature)
