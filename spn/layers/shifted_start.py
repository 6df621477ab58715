"""The start of the down-right-shifted stream (Salimans et al. 2017): convolutions whose outputs are shifted."""

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from spn.layers.causal import down_shift, right_shift
from spn.layers.pixel import PixelLinear
from spn.layers.pixel_head import Scale
from spn.layers.shifted import down_right_shifted, down_shifted, shifted_row
from spn.shapes import Features, Pixel, Row


def with_ones(values: Features) -> Features:
    """Append a plane of ones, which distinguishes the image from its padding."""
    return F.pad(values, (0, 1), value=1.0)


class ShiftedStart(nn.Module):
    """Maps an image with a plane of ones to features of the pixels above and to the left of each pixel."""

    def __init__(self, num_in: int, filters: int) -> None:
        super().__init__()
        self.above = down_shifted(num_in, filters, (1, 3))
        self.left = down_right_shifted(num_in, filters, (2, 1))

    def forward(self, image: Features) -> Features:
        """Shift after the biases, as the paper's code does."""
        return down_shift(self.above(image)) + right_shift(self.left(image))


class ShiftedStartSteps:
    """The step form of a `ShiftedStart`, with the rows of the image [batch, width, channel + 1] that it needs.

    `above` is the row above the current one, `further` the row above that; they are zero at the top of the slice.
    """

    def __init__(self, start: ShiftedStart, scale: Scale, batch: int, columns: int) -> None:
        self._scale = scale
        weight, bias = start.left.conv.weight.detach(), start.left.conv.bias
        assert bias is not None
        self._start, self._bias = start, bias
        self._left_above = weight[:, :, 0, 0]
        self._left = PixelLinear(weight[:, :, 1, 0])
        self._here = weight.new_ones(batch, columns, weight.shape[1])
        self._inputs = self._here.unbind(1)
        self.above, self.further = torch.zeros_like(self._here), torch.zeros_like(self._here)
        self.features = weight.new_zeros(batch, columns, weight.shape[0])
        self._pixels = self.features.unbind(1)

    def start_row(self, row: int, beside: Row | None) -> None:
        """Begin a row; `beside` is added to its features."""
        if row == 0:
            self.above.zero_()
            self.features.zero_()
            self.features[:, 1:] = self._bias
        else:
            self.further.copy_(self.above)
            self.above.copy_(self._here)
            self.features.copy_(shifted_row(self._start.above, self.further, self.above))
            self.features[:, 1:] += F.linear(self.above[:, :-1], self._left_above, self._bias)
        if beside is not None:
            self.features += beside

    def pixel(self, column: int) -> Pixel:
        """Return the features of the pixel at `column`, once all pixels before it are filled in."""
        features = self._pixels[column]
        if column:
            self._left.add_to(features, self._inputs[column - 1])
        return features

    def observe(self, column: int, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Fill in a channel of a pixel of the row."""
        self._here[:, column, channel] = self._scale.embed(levels, self._here.dtype)

    def inputs(self, column: int) -> Pixel:
        """Return a pixel of the row as far as it is filled in, followed by a one."""
        return self._inputs[column]
