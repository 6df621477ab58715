"""Encoder and decoder of the VQ auto-encoder (VQGAN, Esser et al. 2021, Appendix A).

NOTE: the published networks have group norms over all pixels, and attention at the lowest resolution. Ours have the
pre-norm blocks of this project, which normalise every pixel by itself, and no attention. Down-sampling moves blocks of
2x2 pixels into features, which the next 3x3 convolution then sees: together a strided 6x6 convolution.
"""

from einops import rearrange, repeat
from torch import nn

from spn.config.first_stage import VqSection
from spn.layers import ConvStack
from spn.shapes import Values, Vectors


def _widths(section: VqSection) -> list[int]:
    """Return the channels at each resolution, from full to lowest: doubled twice, as VQGAN's are, then constant."""
    return [section.width << min(halvings, 2) for halvings in range(section.downsampling.bit_length())]


def _stacks(nums_in: list[int], widths: list[int], num_blocks: int) -> nn.ModuleList:
    """Build one stack for each resolution."""
    dilations = (1,) * (1 + 2 * num_blocks)
    return nn.ModuleList(ConvStack(num_in, width, dilations) for num_in, width in zip(nums_in, widths, strict=True))


class Encoder(nn.Module):
    """Turns an image into one vector for each code."""

    def __init__(self, section: VqSection, channels: int) -> None:
        super().__init__()
        widths = _widths(section)
        self.stacks = _stacks([channels, *(4 * width for width in widths[:-1])], widths, section.blocks)
        self.last = nn.Linear(widths[-1], section.code_width)

    def forward(self, values: Values) -> Vectors:
        """Encode an image; the output has height and width divided by the down-sampling."""
        first, *others = self.stacks
        hidden = first(values)
        for stack in others:
            hidden = stack(rearrange(hidden, "batch (row a) (column b) f -> batch row column (f a b)", a=2, b=2))
        return self.last(hidden)


class Decoder(nn.Module):
    """Turns vectors of codes into an image."""

    def __init__(self, section: VqSection, channels: int) -> None:
        super().__init__()
        widths = _widths(section)[::-1]
        self.stacks = _stacks([section.code_width, *widths[:-1]], widths, section.blocks)
        self.last = nn.Linear(widths[-1], channels)

    def forward(self, vectors: Vectors) -> Values:
        """Decode vectors; the image is not confined to [-1, 1]."""
        first, *others = self.stacks
        hidden = first(vectors)
        for stack in others:
            hidden = stack(repeat(hidden, "batch row column f -> batch (row a) (column b) f", a=2, b=2))
        return self.last(hidden)
