"""The shifted convolutions of PixelCNN++ (Salimans et al. 2017), made causal by padding instead of masks.

A *down-shifted* convolution sees the rows above and the row itself, on both sides of a pixel; a *down-right-shifted*
convolution sees the same rows, but only the pixel and those to its left. With a stride of 2 they halve the resolution;
transposed they double it. Their inputs must be shifted already, so that a pixel's features do not see that pixel.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from spn.layers.weight_norm import normalised
from spn.shapes import Features, Pixel, Row


class ShiftedConv(nn.Module):
    """A convolution with a kernel of [height, width]: down-shifted if `sees_right`, or else down-right-shifted."""

    def __init__(
        self, num_in: int, num_out: int, kernel: tuple[int, int], sees_right: bool, stride: int = 1, scale: float = 1.0
    ) -> None:
        super().__init__()
        height, width = kernel
        self.margins = (*((width // 2, width // 2) if sees_right else (width - 1, 0)), height - 1)
        self.conv = normalised(nn.Conv2d(num_in, num_out, kernel, stride=stride), scale)

    def forward(self, features: Features) -> Float[Tensor, "batch rows columns _"]:
        """Convolve, with zeros outside the slice."""
        left, right, above = self.margins
        return self.inside(F.pad(features, (0, 0, left, right, above, 0)))

    def inside(self, padded: Float[Tensor, "batch _ _ num_in"]) -> Float[Tensor, "batch rows columns _"]:
        """Convolve features that have the `margins` of zeros already."""
        return self.conv(padded.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def shifted_row(shifted: ShiftedConv, above: Row, here: Row) -> Float[Tensor, "batch columns _"]:
    """Return one row of a `ShiftedConv`'s output from the same row of its input and the row above: its row form."""
    padded = F.pad(torch.stack((above, here), dim=1), (0, 0, *shifted.margins[:2]))
    return shifted.conv(padded.permute(0, 3, 1, 2))[:, :, -1].transpose(1, 2)


class ShiftedUpsampling(nn.Module):
    """A transposed convolution by 2 with a kernel of [2, 3], down-shifted, or [2, 2], down-right-shifted."""

    def __init__(self, num_in: int, num_out: int, sees_right: bool) -> None:
        super().__init__()
        self.conv = normalised(_Doubling(num_in, num_out, (2, 3) if sees_right else (2, 2), stride=2))

    def forward(self, features: Features) -> Float[Tensor, "batch rows columns _"]:
        """Double the resolution; each row of the input makes two rows of the output by itself."""
        return self.conv(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class _Doubling(nn.ConvTranspose2d):
    """A transposed convolution with a stride of 2, cropped to twice the size: one product, in half of torch's time."""

    def forward(self, features: Float[Tensor, "batch num_in _ _"]) -> Float[Tensor, "batch num_out _ _"]:  # type: ignore[override]
        taps = self.weight.permute(3, 2, 1, 0)
        # [batch, row, column, column of the kernel, row of the kernel, output]
        made = F.linear(features.permute(0, 2, 3, 1), taps.flatten(0, 2)).unflatten(-1, taps.shape[:3])
        if len(taps) == 3:
            # Odd columns see two pixels: the first column of the kernel falls to the left of its own pixel.
            left, even, odd = made.unbind(3)
            made = torch.stack((even, odd + F.pad(left[:, :, 1:], (0, 0, 0, 0, 0, 1))), dim=3)
        assert self.bias is not None
        doubled = made.permute(0, 1, 4, 2, 3, 5).flatten(3, 4).flatten(1, 2) + self.bias.to(made.dtype)
        return doubled.permute(0, 3, 1, 2)


def down_shifted(num_in: int, num_out: int, kernel: tuple[int, int] = (2, 3), stride: int = 1) -> ShiftedConv:
    """Build a convolution that sees the rows above and the row itself."""
    return ShiftedConv(num_in, num_out, kernel, sees_right=True, stride=stride)


def down_right_shifted(num_in: int, num_out: int, kernel: tuple[int, int] = (2, 2), stride: int = 1) -> ShiftedConv:
    """Build a convolution that sees the pixels above and to the left, and the pixel itself."""
    return ShiftedConv(num_in, num_out, kernel, sees_right=False, stride=stride)


class ShiftedConvSteps:
    """The step form of a down-right-shifted convolution with a kernel of [2, 2].

    The part from the row above is computed once per row. `columns` is the width of the input. Write a pixel's input
    into `slots[column]`, then call `step` for its output.
    """

    def __init__(self, conv: ShiftedConv, batch: int, columns: int) -> None:
        weight, bias = conv.conv.weight.detach(), conv.conv.bias
        assert weight.shape[2:] == (2, 2)
        assert bias is not None
        self.stride = conv.conv.stride[0]
        # [row of the kernel, (column of the kernel, input), output]
        taps = weight.permute(2, 3, 1, 0).flatten(1, 2).contiguous()
        self._above, self._here = taps.unbind(0)
        self._bias = bias.detach()
        self._row = weight.new_zeros(batch, columns + 1, weight.shape[1])
        self._base = weight.new_zeros(batch, columns // self.stride, weight.shape[0])
        self.slots = self._row[:, 1:].unbind(1)
        self._pairs = [self._row[:, column : column + 2].flatten(1) for column in range(0, columns, self.stride)]
        self._bases = self._base.unbind(1)

    def begin(self) -> None:
        """Forget the slices walked before."""
        self._row.zero_()

    def start_row(self, beside: Float[Tensor, "batch _ num_out"] | None = None) -> None:
        """Begin a row of the output, while `slots` still holds the row above; `beside` is added to the output."""
        pairs = self._row.unfold(1, 2, self.stride).transpose(2, 3).flatten(2)
        torch.matmul(pairs, self._above, out=self._base)
        self._base += self._bias if beside is None else self._bias + beside

    def step(self, column: int) -> Pixel:
        """Return the output at a `column` of the output."""
        return torch.addmm(self._bases[column], self._pairs[column], self._here)


class UpsamplingSteps:
    """The step form of a down-right-shifted transposed convolution: each pixel of the input makes 2x2 of the output."""

    def __init__(self, upsampling: ShiftedUpsampling, batch: int, columns: int) -> None:
        """Allocate buffers; `columns` is the width of the input."""
        weight, bias = upsampling.conv.weight.detach(), upsampling.conv.bias
        assert bias is not None
        num_out = weight.shape[1]
        self._weight = weight.permute(0, 2, 3, 1).flatten(1).contiguous()
        self._bias = bias.detach().repeat(4)
        self._rows = weight.new_zeros(batch, 2, 2 * columns, num_out)
        self._places = [self._rows[:, :, 2 * column : 2 * column + 2] for column in range(columns)]
        self._pixels = [row.unbind(1) for row in self._rows.unbind(1)]

    def write(self, column: int, features: Pixel) -> None:
        """Write the 2x2 pixels of the output that a pixel of the input makes."""
        place = self._places[column]
        place.copy_(torch.addmm(self._bias, features, self._weight).view(place.shape))

    def pixel(self, row: int, column: int) -> Pixel:
        """Return a pixel of the output."""
        return self._pixels[row % 2][column]
