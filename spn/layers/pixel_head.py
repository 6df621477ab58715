"""Heads of networks whose features see no channel of the pixel: they make its laws, channel by channel.

The order of the channels is then the head's affair. (In a Gated PixelCNN it is the network's: see `GatedStacks`.)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from spn.layers.causal import ChannelCausalLinear, ChannelSteps
from spn.layers.intensity import scale_levels
from spn.layers.pixel import EmbeddedPixel, PixelLinear
from spn.layers.recompute import Recomputing
from spn.layers.weight_norm import normalised
from spn.likelihood import (
    Categorical,
    Chunked,
    DequantisedMixture,
    DiscretisedMixture,
    JointMixture,
    Law,
    joint_mixture,
    num_joint_outputs,
)

Features = Float[Tensor, "batch height width _"]
Embedded = Float[Tensor, "batch height width channel"]
High = Int[Tensor, "batch height width channel"]
Pixel = Float[Tensor, "batch _"]


@dataclass(frozen=True)
class Scale:
    """The levels of a stage's sub-pixels, and those of the more significant bits that are known beforehand."""

    num_levels: int
    high_levels: int

    def embed(self, levels: Int[Tensor, "*batch"], dtype: torch.dtype) -> Float[Tensor, "*batch"]:
        """Scale the stage's own levels to [-1, 1]."""
        return scale_levels(levels, self.num_levels, dtype)

    def values(self, embedded: Float[Tensor, "*batch"], high: Int[Tensor, "*batch"] | None) -> Float[Tensor, "*batch"]:
        """Move what `embed` gave to the scale of all bits so far, again [-1, 1]; differentiable."""
        if high is None:
            return embedded
        levels = (embedded + 1) * ((self.num_levels - 1) / 2) + high * self.num_levels
        return levels * (2 / (self.num_levels * self.high_levels - 1)) - 1


class PixelHead(Recomputing, ABC):
    """Makes the laws of pixels out of their features, and of the channels before within each."""

    @abstractmethod
    def forward(self, features: Features, embedded: Embedded, high: High | None) -> Law:
        """Give the laws [batch, height, width, channel]; `embedded` is the target as `Scale` embeds it."""

    @abstractmethod
    def steps(self, batch: int) -> "PixelHeadSteps":
        """Give the step form."""


class PixelHeadSteps(ABC):
    """The step form of a `PixelHead`: pixel by pixel `start`, and for each channel `law`, and then `put`."""

    @abstractmethod
    def start(self, features: Pixel, high: Int[Tensor, "batch channel"] | None) -> None:
        """Begin a pixel."""

    @abstractmethod
    def law(self, channel: int) -> Law:
        """Give the laws [batch] of a channel."""

    @abstractmethod
    def put(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Make a channel known."""


class MixtureHead(PixelHead):
    """One mixture of logistics for all channels of a pixel (Salimans et al. 2017, Sec. 2.1 and 2.2)."""

    def __init__(
        self, num_in: int, channels: int, scale: Scale, num_mixtures: int, law: type[DiscretisedMixture]
    ) -> None:
        super().__init__()
        self.channels, self.scale, self.law = channels, scale, law
        self.out = normalised(nn.Linear(num_in, num_joint_outputs(channels, num_mixtures)))

    def forward(self, features: Features, embedded: Embedded, high: High | None) -> Law:
        """Give the laws [batch, height, width, channel]."""
        scale = self.scale
        values = scale.values(embedded, high)
        parameters = self.out(features)
        return joint_mixture(parameters, values, scale.num_levels, high, scale.high_levels, self.law)

    def steps(self, batch: int) -> "PixelHeadSteps":
        """Give the step form."""
        return MixtureHeadSteps(self)


class MixtureHeadSteps(PixelHeadSteps):
    """The step form of a `MixtureHead`."""

    def __init__(self, head: MixtureHead) -> None:
        self._head = head
        self._out = PixelLinear(head.out.weight, head.out.bias)

    def start(self, features: Pixel, high: Int[Tensor, "batch channel"] | None) -> None:
        """Begin a pixel."""
        head, scale = self._head, self._head.scale
        parameters = self._out(features)
        self._mixture = JointMixture(parameters, head.channels, scale.num_levels, high, scale.high_levels, head.law)
        self._high = high

    def law(self, channel: int) -> Law:
        """Give the laws [batch] of a channel."""
        return self._mixture.law()

    def put(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Make a channel known."""
        if channel + 1 < self._head.channels:
            scale, high = self._head.scale, None if self._high is None else self._high[:, channel]
            self._mixture.put(scale.values(scale.embed(levels, self._out.dtype), high))


class SoftmaxHead(PixelHead):
    """A softmax for each channel, of the pixel's features and the channels before.

    NOTE: how PixelCNN++ made its ablation with a softmax depend on the channels before is not known; a hidden layer for
    each channel, which their levels enter, is ours.
    """

    def __init__(self, num_in: int, channels: int, scale: Scale) -> None:
        super().__init__()
        self.channels, self.scale = channels, scale
        self.hidden = normalised(nn.Linear(num_in, channels * num_in))
        self.before = ChannelCausalLinear(channels, channels * num_in, channels, strict=True)
        self.logits = nn.ModuleList(nn.Linear(num_in, scale.num_levels) for _ in range(channels))

    def forward(self, features: Features, embedded: Embedded, high: High | None) -> Law:
        """Give the laws [batch, height, width, channel]."""
        return Chunked(self.hidden(features) + self.before(embedded), self._laws, self.recompute)

    def _laws(self, hidden: Float[Tensor, "*batch _"]) -> Law:
        groups = F.elu(hidden).chunk(self.channels, dim=-1)
        logits = [logits(group) for logits, group in zip(self.logits, groups, strict=True)]
        return Categorical(torch.stack(logits, dim=-2))

    def steps(self, batch: int) -> "PixelHeadSteps":
        """Give the step form."""
        return SoftmaxHeadSteps(self, batch)


class SoftmaxHeadSteps(PixelHeadSteps):
    """The step form of a `SoftmaxHead`."""

    def __init__(self, head: SoftmaxHead, batch: int) -> None:
        self._hidden = PixelLinear(head.hidden.weight, head.hidden.bias)
        weight = head.hidden.weight
        table = head.scale.embed(torch.arange(head.scale.num_levels, device=weight.device), weight.dtype)
        self._pixel = EmbeddedPixel(table[:, None], batch, head.channels)
        self._before = ChannelSteps(head.before, self._pixel.values)
        self._logits = [PixelLinear(each.get_parameter("weight"), each.get_parameter("bias")) for each in head.logits]

    def start(self, features: Pixel, high: Int[Tensor, "batch channel"] | None) -> None:
        """Begin a pixel."""
        self._groups = self._hidden(features).chunk(len(self._logits), dim=1)

    def law(self, channel: int) -> Law:
        """Give the laws [batch] of a channel."""
        return Categorical(self._logits[channel](F.elu(self._groups[channel] + self._before.step(channel))))

    def put(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Make a channel known."""
        self._pixel.put(channel, levels)


def build_head(
    law: Literal["mixture", "softmax", "dequantised"], num_in: int, channels: int, scale: Scale, num_mixtures: int
) -> PixelHead:
    """Build the head that a model's section names."""
    if law == "softmax":
        return SoftmaxHead(num_in, channels, scale)
    kind = DequantisedMixture if law == "dequantised" else DiscretisedMixture
    return MixtureHead(num_in, channels, scale, num_mixtures, kind)
