"""Heads for networks whose features at a pixel see none of its channels: they make its laws channel by channel.

The head keeps the order of the channels here. (In a Gated PixelCNN the masks of all layers do: see `MaskedHead`.)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from spn.layers.causal import ChannelCausalLinear, ChannelSteps
from spn.layers.intensity import scale_levels
from spn.layers.pixel import EmbeddedPixel, PixelLinear
from spn.layers.recompute import Recomputing
from spn.layers.weight_norm import normalised
from spn.likelihood import Chunked, Law, OutputLaw
from spn.shapes import AnyFeatures, Features, Levels, Pixel, Values


@dataclass(frozen=True)
class Scale:
    """Numbers of levels: of a stage's sub-pixels, and of their more significant bits if known beforehand."""

    num_levels: int
    high_levels: int

    def embed(self, levels: Int[Tensor, "*batch"], dtype: torch.dtype) -> Float[Tensor, "*batch"]:
        """Scale the stage's own levels to [-1, 1]."""
        return scale_levels(levels, self.num_levels, dtype)

    def values(self, embedded: Float[Tensor, "*batch"], high: Int[Tensor, "*batch"] | None) -> Float[Tensor, "*batch"]:
        """Map embedded levels to the scale of all bits so far, again [-1, 1]; differentiable."""
        if high is None:
            return embedded
        # Full level = high * num_levels + own level.
        levels = (embedded + 1) * ((self.num_levels - 1) / 2) + high * self.num_levels
        return levels * (2 / (self.num_levels * self.high_levels - 1)) - 1


class PixelHead(Recomputing, ABC):
    """Maps the features of pixels, and the channels before within each, to the laws of the channels."""

    law: str
    """The name of the law in a model's section."""
    output: nn.Module
    """The last layer, whose outputs are the parameters of the laws."""

    @abstractmethod
    def forward(self, features: Features, embedded: Values, high: Levels | None) -> Law:
        """Return the laws [batch, height, width, channel]; `embedded` is the target as `Scale` embeds it."""


class PixelHeadSteps(ABC):
    """The step form of a `PixelHead`: `start` for each pixel, then `law` and `observe` for each of its channels."""

    @abstractmethod
    def start(self, features: Pixel, high: Int[Tensor, "batch channel"] | None) -> None:
        """Begin a pixel."""

    @abstractmethod
    def law(self, channel: int) -> Law:
        """Return the laws [batch] of a channel."""

    @abstractmethod
    def observe(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Fill in a channel of the pixel."""


class ChannelHead(PixelHead):
    """A separate law for each channel, given the pixel's features and the channels before.

    NOTE: PixelCNN++ does not say how its ablation with a softmax depends on the channels before; ours has a hidden
    layer for each channel, which their levels enter.
    """

    output: nn.ModuleList

    def __init__(self, num_in: int, channels: int, scale: Scale, output_law: OutputLaw) -> None:
        super().__init__()
        self.channels, self.scale, self.output_law = channels, scale, output_law
        self.hidden = normalised(nn.Linear(num_in, channels * num_in))
        self.before = ChannelCausalLinear(channels, channels * num_in, channels, strict=True)
        self.output = nn.ModuleList(nn.Linear(num_in, output_law.num_outputs) for _ in range(channels))

    def forward(self, features: Features, embedded: Values, high: Levels | None) -> Law:
        """Return the laws [batch, height, width, channel]."""
        hidden = self.hidden(F.elu(features)) + self.before(embedded)
        return Chunked(hidden, self._laws, self.recompute) if self.output_law.is_large else self._laws(hidden, high)

    def _laws(self, hidden: AnyFeatures, high: Int[Tensor, "*batch channel"] | None = None) -> Law:
        groups = F.elu(hidden).chunk(self.channels, dim=-1)
        outputs = [output(group) for output, group in zip(self.output, groups, strict=True)]
        return self.output_law(torch.stack(outputs, dim=-2), high)


class ChannelHeadSteps(PixelHeadSteps):
    """The step form of a `ChannelHead`."""

    def __init__(self, head: ChannelHead, batch: int) -> None:
        self._output_law = head.output_law
        self._hidden = PixelLinear(head.hidden.weight, head.hidden.bias)
        weight = head.hidden.weight
        table = head.scale.embed(torch.arange(head.scale.num_levels, device=weight.device), weight.dtype)
        self._pixel = EmbeddedPixel(table[:, None], batch, head.channels)
        self._before = ChannelSteps(head.before, self._pixel.values)
        self._output = [PixelLinear(each.get_parameter("weight"), each.get_parameter("bias")) for each in head.output]

    def start(self, features: Pixel, high: Int[Tensor, "batch channel"] | None) -> None:
        """Begin a pixel."""
        self._groups = self._hidden(F.elu(features)).chunk(len(self._output), dim=1)
        self._high = high

    def law(self, channel: int) -> Law:
        """Return the laws [batch] of a channel."""
        outputs = self._output[channel](F.elu(self._groups[channel] + self._before.step(channel)))
        return self._output_law(outputs, None if self._high is None else self._high[:, channel])

    def observe(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Fill in a channel of the pixel."""
        self._pixel.observe(channel, levels)
