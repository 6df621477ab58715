"""Residual convolutions at constant size, not causal: for input that is fully known before a slice begins."""

from torch import nn
from torch.nn import functional as F

from spn.layers.recompute import Recomputing
from spn.shapes import Features


def _conv(num_in: int, num_out: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, 3, padding=dilation, dilation=dilation)


def _convolve(conv: nn.Conv2d, features: Features) -> Features:
    return conv(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class _ResidualBlock(nn.Module):
    def __init__(self, width: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first, self.second = (_conv(width, width, dilation) for dilation in dilations)
        nn.init.zeros_(self.second.weight)  # so that a deep stack begins as the identity

    def forward(self, features: Features) -> Features:
        hidden = F.gelu(_convolve(self.first, self.norm(features)))
        return features + _convolve(self.second, hidden)


class ConvStack(Recomputing):
    """A 3x3 convolution, residual blocks of two convolutions each (pre-norm), and a last norm.

    `dilations` has one entry for each convolution. Without the last norm the output would grow until the gates that it
    enters stay saturated.
    """

    def __init__(self, num_in: int, width: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.entry = _conv(num_in, width, dilations[0])
        pairs = zip(dilations[1::2], dilations[2::2], strict=True)
        self.blocks = nn.Sequential(*(_ResidualBlock(width, pair) for pair in pairs))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Features) -> Features:
        """Convolve at constant size, with zeros outside the slice."""
        hidden = _convolve(self.entry, features)
        for block in self.blocks:
            hidden = self.run_layer(block, hidden)
        return self.norm(hidden)
