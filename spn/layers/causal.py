"""Convolutions that are causal by construction: inputs are shifted and only live weights exist; no weight is masked.

The two stacks of the Gated PixelCNN (van den Oord et al. 2016): the vertical stack sees whole rows above, so it needs
no order of channels. The horizontal stack sees the row to the left and, of the pixel itself, only earlier channels
(mask A), or these and the channel itself (mask B).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from spn.layers.pixel import PixelLinear
from spn.shapes import Features, Pixel, Row


def down_shift(features: Features) -> Features:
    """Shift rows down by one: drop the last, and put zeros first."""
    return F.pad(features, (0, 0, 0, 0, 1, 0))[:, :-1]


def right_shift(features: Features) -> Features:
    """Shift columns to the right by one: drop the last, and put zeros first."""
    return F.pad(features, (0, 0, 1, 0))[:, :, :-1]


def raster_shift(features: Features) -> Features:
    """Shift pixels by one in raster order, across the ends of rows: drop the last, and put zeros first."""
    flat = features.flatten(1, 2)
    return F.pad(flat, (0, 0, 1, 0))[:, :-1].unflatten(1, features.shape[1:3])


class VerticalConv(nn.Module):
    """A 2x3 convolution over the row above and the row itself; on down-shifted features it sees only rows above."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_in, num_out, kernel_size=(2, 3))

    def forward(self, features: Features, link: nn.Linear | None = None) -> Features:
        """Convolve, with zeros outside the slice; a `link` is applied to the result, as part of the kernel."""
        padded = F.pad(features, (0, 0, 1, 1, 1, 0)).permute(0, 3, 1, 2)
        if link is None:
            return self.conv(padded).permute(0, 2, 3, 1)
        kernel = torch.einsum("oc,cihw->oihw", link.weight, self.conv.weight)
        bias = F.linear(self.conv.get_parameter("bias"), link.weight, link.bias)
        return F.conv2d(padded, kernel, bias).permute(0, 2, 3, 1)


def vertical_row(vertical: VerticalConv, above: Row, here: Row) -> Row:
    """Return one row of a `VerticalConv`'s output from the same row of its input and the row above: its step form."""
    padded = F.pad(torch.stack((above, here), dim=1), (0, 0, 1, 1))
    return vertical.conv(padded.permute(0, 3, 1, 2))[:, :, 0].transpose(1, 2)


class ChannelCausalLinear(nn.Module):
    """A linear map at each pixel, masked by channel: an image channel's features see those of earlier channels.

    Features are in `num_channels` equal groups, one per image channel. With `strict` a group does not see itself (mask
    A), otherwise it does (mask B). Only the live weights are parameters.
    """

    def __init__(self, num_in: int, num_out: int, num_channels: int, strict: bool) -> None:
        super().__init__()
        assert num_in % num_channels == 0
        assert num_out % num_channels == 0
        # Mask A: group c sees the groups 0 .. c - 1. Mask B: it sees the groups 0 .. c.
        seen = [(group if strict else group + 1) * num_in // num_channels for group in range(num_channels)]
        self.groups = nn.ModuleList(_linear(width, num_out // num_channels) for width in seen)
        self.seen = seen
        self.num_in = num_in

    @property
    def num_dead(self) -> int:
        """Number of zeros in the weight that `dense` assembles."""
        num_outputs = len(self.groups[0].get_parameter("bias"))
        return num_outputs * sum(self.num_in - width for width in self.seen)

    def forward(self, features: Float[Tensor, "*batch num_in"]) -> Float[Tensor, "*batch num_out"]:
        """Map each group from the groups that it sees."""
        return F.linear(features, *self.dense())

    def dense(self) -> tuple[Float[Tensor, "num_out num_in"], Float[Tensor, " num_out"]]:
        """Assemble the weight, with zeros for masked entries, and the bias.

        One product with some dead weights is faster than a product per group, which copies slices of the features.
        """
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        for group, width in zip(self.groups, self.seen, strict=True):
            biases.append(group.get_parameter("bias"))
            live = group.get_parameter("weight") if width else biases[-1].new_zeros(len(biases[-1]), 0)
            weights.append(F.pad(live, (0, self.num_in - width)))
        return torch.cat(weights), torch.cat(biases)


class _BiasOnly(nn.Module):
    """A linear map without inputs: the first channel under mask A."""

    def __init__(self, num_out: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_out))


def _linear(num_in: int, num_out: int) -> nn.Module:
    return nn.Linear(num_in, num_out) if num_in else _BiasOnly(num_out)


class ChannelSteps:
    """The step form of a `ChannelCausalLinear`: one channel at a time, of pixels [batch, num_in].

    It reads `features` in place; a step needs only the channels that its channel sees.
    """

    def __init__(self, linear: ChannelCausalLinear, features: Float[Tensor, "batch num_in"]) -> None:
        self._seen = [features[:, :width] for width in linear.seen]
        weights, biases = (each.chunk(len(linear.seen)) for each in linear.dense())
        self._groups = [
            PixelLinear(weight[:, :width] if width else None, bias)
            for weight, bias, width in zip(weights, biases, linear.seen, strict=True)
        ]

    def step(self, channel: int) -> Pixel:
        """Compute one channel of the output."""
        return self._groups[channel](self._seen[channel])

    def add_to(self, base: Pixel, channel: int) -> None:
        """Add one channel of the output, without the bias, to `base` in place."""
        self._groups[channel].add_to(base, self._seen[channel])


class HorizontalConv(nn.Module):
    """A 1x2 convolution over the whole pixel to the left, and the pixel itself under mask A (`strict`) or mask B."""

    def __init__(self, num_in: int, num_out: int, num_channels: int, strict: bool) -> None:
        super().__init__()
        self.left = nn.Linear(num_in, num_out, bias=False)
        self.itself = ChannelCausalLinear(num_in, num_out, num_channels, strict)

    def forward(self, features: Features) -> Features:
        """Convolve, with zeros left of the slice."""
        weight, bias = self.itself.dense()
        kernel = torch.stack((self.left.weight, weight), dim=-1)[:, :, None]
        padded = F.pad(features, (0, 0, 1, 0))
        return F.conv2d(padded.permute(0, 3, 1, 2), kernel, bias).permute(0, 2, 3, 1)
