"""The head of the Gated PixelCNN (van den Oord et al. 2016): masked by channel, as its stacks are."""

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from spn.layers.causal import ChannelCausalLinear, ChannelSteps
from spn.layers.pixel_head import PixelHead, PixelHeadSteps, Scale
from spn.likelihood import Chunked, Law, OutputLaw
from spn.shapes import AnyFeatures, Features, Levels, Pixel, Values


class MaskedHead(PixelHead):
    """A separate law for each channel, made of features that are masked by channel: mask B, the levels enter before."""

    output: ChannelCausalLinear

    def __init__(self, num_in: int, channels: int, scale: Scale, output_law: OutputLaw) -> None:
        super().__init__()
        self.hidden = ChannelCausalLinear(num_in, num_in, channels, strict=False)
        self.output = ChannelCausalLinear(num_in, channels * output_law.num_outputs, channels, strict=False)
        self.channels, self.scale, self.output_law = channels, scale, output_law

    def forward(self, features: Features, embedded: Values, high: Levels | None) -> Law:
        """Return the laws [batch, height, width, channel]."""
        to_hidden, to_outputs = self.hidden.dense(), self.output.dense()

        def laws(features: AnyFeatures, high: Int[Tensor, "*batch channel"] | None = None) -> Law:
            outputs = F.linear(F.relu(F.linear(F.relu(features), *to_hidden)), *to_outputs)
            return self.output_law(rearrange(outputs, "... (c output) -> ... c output", c=self.channels), high)

        return Chunked(features, laws, self.recompute) if self.output_law.is_large else laws(features, high)


class MaskedHeadSteps(PixelHeadSteps):
    """The step form: `features` are filled in, in place, channel by channel."""

    def __init__(self, head: MaskedHead, batch: int) -> None:
        weight = head.hidden.dense()[0]
        rectified, hidden = weight.new_zeros(2, batch, len(weight)).unbind(0)
        self._hidden, self._output = ChannelSteps(head.hidden, rectified), ChannelSteps(head.output, hidden)
        self._of_channel = list(
            zip(rectified.chunk(head.channels, dim=1), hidden.chunk(head.channels, dim=1), strict=True)
        )
        self._output_law = head.output_law

    def start(self, features: Pixel, high: Int[Tensor, "batch channel"] | None) -> None:
        """Begin a pixel."""
        self._features = features.chunk(len(self._of_channel), dim=1)
        self._high = high

    def law(self, channel: int) -> Law:
        """Return the laws [batch] of a channel, whose features and those before are filled in."""
        rectified, hidden = self._of_channel[channel]
        torch.clamp_min(self._features[channel], 0, out=rectified)
        torch.clamp_min(self._hidden.step(channel), 0, out=hidden)
        return self._output_law(self._output.step(channel), None if self._high is None else self._high[:, channel])

    def observe(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Note nothing: the levels enter the stacks."""
