"""The Gated PixelCNN (van den Oord et al. 2016): its two stacks, and the head that turns their output into laws."""

from typing import cast

from jaxtyping import Float, Int
from torch import Tensor, nn

from spn.layers.causal import down_shift
from spn.layers.gated import GatedLayer, GatedLayerSteps
from spn.layers.masked_head import MaskedHead
from spn.layers.pixel_head import PixelHead, PixelHeadSteps
from spn.layers.recompute import Recomputing
from spn.likelihood import Law
from spn.shapes import Features, Levels, Pixel, Row, Values

Conditions = tuple[Features | None, Features | None]


class GatedStacks(Recomputing):
    """Convolutions over the pixels before, masked also by channel if the head is (`MaskedHead`), and the head.

    `units` is the number of features of an embedded sub-pixel; `num_conditions` are the widths of the features that
    condition the vertical and the horizontal stack, 0 for none.
    """

    def __init__(
        self,
        units: int,
        width: int,
        num_layers: int,
        channels: int,
        num_conditions: tuple[int, int],
        head: PixelHead,
        dropout: float,
    ) -> None:
        super().__init__()
        self.masks_channels = isinstance(head, MaskedHead)
        self.layers = nn.ModuleList(
            GatedLayer(
                num_in=width if depth else channels * units,
                width=width,
                num_conditions=num_conditions,
                channels=channels if self.masks_channels else 1,
                first=depth == 0,
                last=depth == num_layers - 1,
                dropout=dropout,
            )
            for depth in range(num_layers)
        )
        self.head = head

    def forward(
        self,
        embedded: Float[Tensor, "batch height width channel units"],
        values: Values,
        conditions: Conditions,
        high: Levels | None,
    ) -> Law:
        """Return the laws [batch, height, width, channel]; `values` is the target as the head's `Scale` embeds it."""
        horizontal = embedded.flatten(-2)
        vertical = down_shift(horizontal)
        for layer in self.layers:
            vertical, horizontal = self.run_layer(layer, vertical, horizontal, conditions)
        return self.head(horizontal, values, high)


class GatedStacksSteps:
    """The step form of a `GatedStacks`; the caller fills in `embedded` [batch, channel * units] channel by channel."""

    def __init__(self, stacks: GatedStacks, head: PixelHeadSteps, embedded: Pixel, columns: int) -> None:
        self.embedded = inputs = embedded
        self._head, self._masks_channels = head, stacks.masks_channels
        self.layers = []
        for layer in stacks.layers:
            self.layers.append(GatedLayerSteps(cast(GatedLayer, layer), inputs, columns))
            inputs = self.layers[-1].outputs
        self._outputs = inputs
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
        if not self._masks_channels:
            self._step(0)
        self._head.start(self._outputs, None if self._high is None else self._high[:, self._row_index, column])

    def law(self, channel: int) -> Law:
        """Return the laws of a channel of the pixel; the channels before it are filled in."""
        if self._masks_channels:
            self._step(channel)
        return self._head.law(channel)

    def observe(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Note the levels of a channel, which the caller has filled in."""
        self._head.observe(channel, levels)

    def end_pixel(self) -> None:
        """Keep the complete pixel for the row below."""
        self._pixels[self._column].copy_(self.embedded)

    def _step(self, group: int) -> None:
        for layer in self.layers:
            layer.step(group)
