"""The head of PixelCNN++ (Salimans et al. 2017): one mixture of logistics for all channels of a pixel."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from spn.layers.pixel import PixelLinear
from spn.layers.pixel_head import PixelHead, PixelHeadSteps, Scale
from spn.layers.weight_norm import normalised
from spn.likelihood import DiscretisedMixture, JointMixture, Law, joint_mixture, num_joint_outputs
from spn.shapes import Features, Levels, Pixel, Values


class _PlanarLinear(nn.Linear):
    """A linear map of pixels whose outputs lie in memory plane by plane, as `JointMixture` reads them."""

    def forward(self, features: Features) -> Float[Tensor, "batch height width num_out"]:
        planes = torch.addmm(self.bias[:, None], self.weight, features.flatten(0, -2).T)
        return planes.unflatten(1, features.shape[:-1]).movedim(0, -1)


class MixtureHead(PixelHead):
    """One mixture of logistics for all channels of a pixel (Salimans et al. 2017, Sec. 2.1 and 2.2)."""

    output: nn.Linear

    def __init__(
        self, num_in: int, channels: int, scale: Scale, num_mixtures: int, mixture: type[DiscretisedMixture]
    ) -> None:
        super().__init__()
        self.channels, self.scale, self.mixture = channels, scale, mixture
        self.output = normalised(
            _PlanarLinear(num_in, num_joint_outputs(channels, num_mixtures)), mixture.initial_scale
        )

    def forward(self, features: Features, embedded: Values, high: Levels | None) -> Law:
        """Return the laws [batch, height, width, channel]."""
        scale = self.scale
        values = scale.values(embedded, high)
        parameters = self.output(F.elu(features))
        return joint_mixture(parameters, values, scale.num_levels, high, scale.high_levels, self.mixture)


class MixtureHeadSteps(PixelHeadSteps):
    """The step form of a `MixtureHead`."""

    def __init__(self, head: MixtureHead) -> None:
        self._head = head
        self._output = PixelLinear(head.output.weight, head.output.bias)

    def start(self, features: Pixel, high: Int[Tensor, "batch channel"] | None) -> None:
        """Begin a pixel."""
        head, scale = self._head, self._head.scale
        parameters = self._output(F.elu(features))
        self._mixture = JointMixture(parameters, head.channels, scale.num_levels, high, scale.high_levels, head.mixture)
        self._high = high

    def law(self, channel: int) -> Law:
        """Return the laws [batch] of a channel."""
        return self._mixture.law()

    def observe(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Fill in a channel of the pixel."""
        if channel + 1 < self._head.channels:
            scale, high = self._head.scale, None if self._high is None else self._high[:, channel]
            self._mixture.observe(scale.values(scale.embed(levels, self._output.dtype), high))
