"""The mixture of logistics before it is discretised (Salimans et al. 2017, Table 2): trains and evaluates a bound."""

from spn.laws.mixture import MixtureForm, head_steps
from spn.layers import MixtureHead, PixelHead, Scale
from spn.likelihood import DequantisedMixture, LawForm

__all__ = ["form", "head", "head_steps"]


def form(scale: Scale, num_mixtures: int) -> LawForm:
    """Return the form on the scale of a stage."""
    return MixtureForm(scale, num_mixtures, DequantisedMixture)


def head(num_in: int, channels: int, scale: Scale, num_mixtures: int) -> PixelHead:
    """Build the head with one mixture indicator for all channels."""
    return MixtureHead(num_in, channels, scale, num_mixtures, DequantisedMixture)
