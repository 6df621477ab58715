"""The layer of the Gated PixelCNN (van den Oord et al. 2016, Fig. 2)."""

import torch
from torch import nn
from torch.nn import functional as F

from spn.layers.causal import ChannelCausalLinear, ChannelSteps, HorizontalConv, VerticalConv, vertical_row
from spn.layers.elementwise import Dropout, gate
from spn.layers.pixel import PixelLinear
from spn.shapes import AnyFeatures, Features, Pixel, Row


class GatedLayer(nn.Module):
    """One layer of the Gated PixelCNN (van den Oord et al. 2016, Fig. 2): tanh * sigmoid gates on both stacks.

    Each stack has its own conditions, which enter every gate. Conditions that depend on the slice itself may enter only
    the horizontal stack: the vertical kernel is 3 wide, and would see the condition of the next pixel, which depends on
    this one.
    """

    merges_link = True
    """Whether the link may be merged into the maps before it; otherwise every map runs by itself."""

    def __init__(
        self,
        num_in: int,
        width: int,
        num_conditions: tuple[int, int],
        channels: int,
        first: bool,
        last: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.vertical = VerticalConv(num_in, 2 * width)
        self.horizontal = HorizontalConv(num_in, 2 * width, channels, strict=first)
        self.link = nn.Linear(2 * width, 2 * width)
        to_vertical, to_horizontal = num_conditions
        self.vertical_condition = nn.Linear(to_vertical, 2 * width, bias=False) if to_vertical else None
        self.horizontal_condition = nn.Linear(to_horizontal, 2 * width, bias=False) if to_horizontal else None
        self.out = ChannelCausalLinear(width, width, channels, strict=False)
        self.dropout = Dropout(dropout)
        self.first, self.last = first, last

    def forward(
        self, vertical: Features, horizontal: Features, conditions: tuple[Features | None, Features | None]
    ) -> tuple[Features | None, Features]:
        """Advance both stacks by one layer; `conditions` are for the vertical and the horizontal stack.

        The vertical output is returned before its gate, which the next layer applies; after the last layer it is None.
        """
        vertical = self.entering(vertical)
        merges = self.merges_link and self._merging_saves(vertical.shape[:3].numel())
        above = None if self.last and merges else self._see_above(vertical, conditions[0])
        linked = self._see_above(vertical, conditions[0], self.link) if merges else self.link(above)
        along = self.horizontal(horizontal) + linked
        if self.horizontal_condition:
            along = along + self.horizontal_condition(conditions[1])
        gated = self.dropout(self.out(gate(along, self.channels)))
        return None if self.last else above, gated if self.first else horizontal + gated

    def _see_above(self, vertical: Features, condition: Features | None, link: nn.Linear | None = None) -> Features:
        """Return the vertical output; with `link`, what that makes of it, by one map, as both are linear."""
        above = self.vertical(vertical, link)
        if self.vertical_condition is None or condition is None:
            return above
        if link is None:
            return above + self.vertical_condition(condition)
        return above + F.linear(condition, link.weight @ self.vertical_condition.weight)

    def _merging_saves(self, num_pixels: int) -> bool:
        """Tell whether merging the link saves multiplications: if few inputs are seen, or the output is unused."""
        num_seen = self.vertical.conv.weight[0].numel()
        if self.vertical_condition:
            num_seen += self.vertical_condition.in_features
        num_out = self.link.out_features
        return num_seen * (num_out + (0 if self.last else num_pixels)) < num_pixels * num_out

    def entering(self, vertical: AnyFeatures) -> AnyFeatures:
        """Gate the vertical output of the previous layer; the first layer takes the slice itself."""
        return vertical if self.first else gate(vertical, 1)


class GatedLayerSteps:
    """The step form of a `GatedLayer`: only the maps that are masked by channel run once per channel.

    The vertical stack advances once per row; the conditions and the pixel to the left enter once per pixel. `inputs`
    [batch, num_in] is the layer's input at the current pixel, which its owner fills in channel by channel; `outputs`
    [batch, width] is the layer's output there, the next layer's input.
    """

    def __init__(self, layer: GatedLayer, inputs: Pixel, columns: int) -> None:
        batch, width = len(inputs), layer.out.seen[-1]
        self.layer, self.inputs = layer, inputs
        self.outputs = inputs.new_zeros(batch, width)
        self._above = inputs.new_zeros(batch, columns, inputs.shape[1])
        self._row = inputs.new_zeros(batch, columns, 2 * width)
        self._pixels = self._row.unbind(1)
        self._base = inputs.new_zeros(batch, 2 * width)
        self._gated = inputs.new_zeros(batch, width)
        self._itself = ChannelSteps(layer.horizontal.itself, inputs)
        self._out = ChannelSteps(layer.out, self._gated)
        self._link = PixelLinear(layer.link.weight, layer.link.bias + layer.horizontal.itself.dense()[1])
        self._left = PixelLinear(layer.horizontal.left.weight)
        condition = layer.horizontal_condition
        self._condition = PixelLinear(None if condition is None else condition.weight)
        views = (each.chunk(layer.channels, dim=1) for each in (self._base, self._gated, inputs, self.outputs))
        self._of_channel = [(base, *base.chunk(2, dim=1), *others) for base, *others in zip(*views, strict=True)]

    def begin(self) -> None:
        """Forget the slices walked before."""
        self._above.zero_()

    def start_row(self, vertical: Row, conditions: tuple[Row | None, Row | None]) -> Row:
        """Advance the vertical stack by one row; `conditions` are for the whole row and each stack."""
        vertical = self.layer.entering(vertical)
        above = vertical_row(self.layer.vertical, self._above, vertical)
        if self.layer.vertical_condition:
            above = above + self.layer.vertical_condition(conditions[0])
        self._row.copy_(self._link(above.flatten(0, 1)).view_as(self._row))
        if self.layer.horizontal_condition and conditions[1] is not None:
            self._row += self.layer.horizontal_condition(conditions[1])
        self._above.copy_(vertical)
        self.inputs.zero_()
        return above

    def start_pixel(self, column: int, condition: Pixel | None = None) -> None:
        """Prepare for the pixel at `column`, while `inputs` still holds the pixel to the left.

        `condition` conditions the horizontal stack in addition to the conditions of the row.
        """
        self._base.copy_(self._pixels[column])
        if condition is not None:
            self._condition.add_to(self._base, condition)
        self._left.add_to(self._base, self.inputs)

    def step(self, channel: int) -> None:
        """Compute one channel of `outputs`."""
        base, value, openness, gated, inputs, outputs = self._of_channel[channel]
        self._itself.add_to(base, channel)
        torch.mul(value.tanh_(), openness.sigmoid_(), out=gated)
        if self.layer.first:
            outputs.copy_(self._out.step(channel))
        else:
            torch.add(inputs, self._out.step(channel), out=outputs)
