"""Small modules the model families are made of; features are [batch, height, width, feature] throughout."""

from spn.layers.causal import (
    ChannelCausalLinear,
    HorizontalConv,
    VerticalConv,
    down_shift,
    raster_shift,
    right_shift,
)
from spn.layers.gated import GatedLayer
from spn.layers.intensity import EmbeddedIntensity, Intensity, ScaledIntensity, build_intensity
from spn.layers.residual import ConvStack
from spn.layers.transformer import RasterTransformer

__all__ = [
    "ChannelCausalLinear",
    "ConvStack",
    "EmbeddedIntensity",
    "GatedLayer",
    "HorizontalConv",
    "Intensity",
    "RasterTransformer",
    "ScaledIntensity",
    "VerticalConv",
    "build_intensity",
    "down_shift",
    "raster_shift",
    "right_shift",
]
