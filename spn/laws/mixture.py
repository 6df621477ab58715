"""A discretised mixture of logistics (Salimans et al. 2017, Sec. 2.1 and 2.2), computed exactly."""

from jaxtyping import Float, Int
from torch import Tensor

from spn.layers import MixtureHead, MixtureHeadSteps, PixelHead, PixelHeadSteps, Scale
from spn.likelihood import DiscretisedMixture, Law, OutputLaw


class MixtureOutputLaw(OutputLaw):
    """A separate mixture for each sub-pixel: its weights, means and log-scales."""

    def __init__(self, scale: Scale, num_mixtures: int, mixture: type[DiscretisedMixture]) -> None:
        self.num_outputs = 3 * num_mixtures
        self.scale, self.mixture = scale, mixture

    def __call__(self, outputs: Float[Tensor, "*batch _"], high: Int[Tensor, "*batch"] | None) -> Law:
        """Return the laws [*batch]."""
        weights, means, log_scales = outputs.chunk(3, dim=-1)
        return self.mixture(weights, means, log_scales, self.scale.num_levels, high, self.scale.high_levels)


def output_law(scale: Scale, num_mixtures: int) -> OutputLaw:
    """Return the output law on the scale of a stage."""
    return MixtureOutputLaw(scale, num_mixtures, DiscretisedMixture)


def head(num_in: int, channels: int, scale: Scale, num_mixtures: int) -> PixelHead:
    """Build the head with one mixture indicator for all channels."""
    return MixtureHead(num_in, channels, scale, num_mixtures, DiscretisedMixture)


def head_steps(head: MixtureHead, batch: int) -> PixelHeadSteps:
    """Return the step form of the head."""
    return MixtureHeadSteps(head)
