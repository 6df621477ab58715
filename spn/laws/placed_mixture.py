"""The discretised mixture of logistics, initialised narrow and within the possible levels (`PlacedMixture`); ours."""

from spn.laws.mixture import MixtureOutputLaw, head_steps
from spn.layers import MixtureHead, PixelHead, Scale
from spn.likelihood import OutputLaw, PlacedMixture

__all__ = ["head", "head_steps", "output_law"]


def output_law(scale: Scale, num_mixtures: int) -> OutputLaw:
    """Return the output law on the scale of a stage."""
    return MixtureOutputLaw(scale, num_mixtures, PlacedMixture)


def head(num_in: int, channels: int, scale: Scale, num_mixtures: int) -> PixelHead:
    """Build the head with one mixture indicator for all channels."""
    return MixtureHead(num_in, channels, scale, num_mixtures, PlacedMixture)
