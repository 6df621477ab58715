"""Small modules the model families are made of; features are [batch, height, width, feature] throughout."""

from spn.layers.causal import (
    ChannelCausalLinear,
    ChannelSteps,
    HorizontalConv,
    VerticalConv,
    down_shift,
    raster_shift,
)
from spn.layers.gated import GatedLayer, GatedLayerSteps
from spn.layers.gated_stacks import GatedStacks, GatedStacksSteps
from spn.layers.intensity import EmbeddedIntensity, Intensity, ScaledIntensity, build_intensity
from spn.layers.pixel import EmbeddedPixel, PixelLinear
from spn.layers.recompute import Recomputing, recompute_layers
from spn.layers.residual import ConvStack
from spn.layers.slice_embedder import SliceEmbedder
from spn.layers.transformer import RasterTransformer, TransformerSteps

__all__ = [
    "ChannelCausalLinear",
    "ChannelSteps",
    "ConvStack",
    "EmbeddedIntensity",
    "EmbeddedPixel",
    "GatedLayer",
    "GatedLayerSteps",
    "GatedStacks",
    "GatedStacksSteps",
    "HorizontalConv",
    "Intensity",
    "PixelLinear",
    "RasterTransformer",
    "Recomputing",
    "ScaledIntensity",
    "SliceEmbedder",
    "TransformerSteps",
    "VerticalConv",
    "build_intensity",
    "down_shift",
    "raster_shift",
    "recompute_layers",
]
