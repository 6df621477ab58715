"""The Gated PixelCNN (van den Oord et al. 2016): its two stacks, and the head that turns their output into laws."""

from typing import cast

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from spn.layers.causal import ChannelCausalLinear, ChannelSteps, down_shift
from spn.layers.gated import GatedLayer, GatedLayerSteps
from spn.layers.recompute import Recomputing
from spn.likelihood import Chunked, Law, OutputLaw
from spn.shapes import AnyFeatures, Features, Levels, Pixel, Row

Conditions = tuple[Features | None, Features | None]


class GatedStacks(Recomputing):
    """Masked convolutions over the pixels before, and the channels before within each pixel.

    `num_conditions` are the widths of the features that condition the vertical and the horizontal stack, 0 for none.
    """

    def __init__(
        self,
        units: int,
        width: int,
        num_layers: int,
        channels: int,
        num_conditions: tuple[int, int],
        output_law: OutputLaw,
        dropout: float,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            GatedLayer(
                num_in=width if depth else channels * units,
                width=width,
                num_conditions=num_conditions,
                channels=channels,
                first=depth == 0,
                dropout=dropout,
            )
            for depth in range(num_layers)
        )
        self.hidden = ChannelCausalLinear(width, width, channels, strict=False)
        self.logits = ChannelCausalLinear(width, channels * output_law.num_outputs, channels, strict=False)
        self.channels, self.output_law = channels, output_law

    def forward(self, embedded: Features, conditions: Conditions, high: Levels | None) -> Law:
        """Return the laws [batch, height, width, channel]; `embedded` has the channels outermost in its features."""
        vertical, horizontal = down_shift(embedded), embedded
        for layer in self.layers:
            vertical, horizontal = self.run_layer(layer, vertical, horizontal, conditions)
        to_hidden, to_logits = self.hidden.dense(), self.logits.dense()

        def laws(features: AnyFeatures, high: Int[Tensor, "*batch channel"] | None = None) -> Law:
            outputs = F.linear(F.relu(F.linear(F.relu(features), *to_hidden)), *to_logits)
            return self.output_law(rearrange(outputs, "... (c output) -> ... c output", c=self.channels), high)

        return Chunked(horizontal, laws, self.recompute) if self.output_law.is_large else laws(horizontal, high)


class GatedStacksSteps:
    """The step form of a `GatedStacks`; the caller fills in `embedded` [batch, channel * units] channel by channel."""

    def __init__(self, pixelcnn: GatedStacks, embedded: Pixel, columns: int) -> None:
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
        self._output_law = pixelcnn.output_law
        self._row = embedded.new_zeros(len(embedded), columns, embedded.shape[1])
        self._pixels = self._row.unbind(1)

    def begin(self, high: Levels | None) -> None:
        """Forget the slices walked before; `high` holds the more significant bits of the new ones, if known."""
        self._high = high
        self._row.zero_()
        for layer in self.layers:
            layer.begin()

    def start_row(self, row: int, conditions: tuple[Row | None, Row | None]) -> None:
        """Begin a row, given the features that condition each stack."""
        self._row_index = row
        vertical = self._row
        for layer in self.layers:
            vertical = layer.start_row(vertical, conditions)

    def start_pixel(self, column: int, condition: Pixel | None = None) -> None:
        """Begin a pixel; `condition` conditions the horizontal stack in addition to the conditions of the row."""
        self._column = column
        for layer in self.layers:
            layer.start_pixel(column, condition)

    def law(self, channel: int) -> Law:
        """Return the laws of a channel of the pixel; the channels before it are filled in."""
        for layer in self.layers:
            layer.step(channel)
        outputs, rectified, hidden = self._of_channel[channel]
        torch.clamp_min(outputs, 0, out=rectified)
        torch.clamp_min(self._hidden.step(channel), 0, out=hidden)
        high = None if self._high is None else self._high[:, self._row_index, self._column, channel]
        return self._output_law(self._logits.step(channel), high)

    def end_pixel(self) -> None:
        """Keep the complete pixel for the row below."""
        self._pixels[self._column].copy_(self.embedded)
