"""Small modules for the model families; features are [batch, height, width, feature] throughout."""

from spn.layers.causal import (
    ChannelCausalLinear,
    ChannelSteps,
    HorizontalConv,
    VerticalConv,
    down_shift,
    raster_shift,
    right_shift,
    vertical_row,
)
from spn.layers.gated import GatedLayer, GatedLayerSteps
from spn.layers.gated_resnet import GatedResnet, GatedResnetRows, GatedResnetSteps, Stream
from spn.layers.gated_stacks import GatedStacks, GatedStacksSteps
from spn.layers.intensity import EmbeddedIntensity, Intensity, ScaledIntensity, build_intensity
from spn.layers.masked_head import MaskedHead, MaskedHeadSteps
from spn.layers.mixture_head import MixtureHead, MixtureHeadSteps
from spn.layers.pixel import EmbeddedPixel, PixelLinear
from spn.layers.pixel_head import ChannelHead, ChannelHeadSteps, PixelHead, PixelHeadSteps, Scale
from spn.layers.recompute import Recomputing, recompute_layers
from spn.layers.residual import ConvStack
from spn.layers.shifted import (
    ShiftedConv,
    ShiftedConvSteps,
    ShiftedUpsampling,
    UpsamplingSteps,
    down_right_shifted,
    down_shifted,
    shifted_row,
)
from spn.layers.shifted_start import ShiftedStart, ShiftedStartSteps, with_ones
from spn.layers.slice_embedder import SliceEmbedder, context_reach, embedder_dilations
from spn.layers.strict_attention import StrictAttention, StrictAttentionSteps, coordinates
from spn.layers.transformer import RasterTransformer, TransformerSteps
from spn.layers.weight_norm import fold_weight_norm, initialised_by_data

__all__ = [
    "ChannelCausalLinear",
    "ChannelHead",
    "ChannelHeadSteps",
    "ChannelSteps",
    "ConvStack",
    "EmbeddedIntensity",
    "EmbeddedPixel",
    "GatedLayer",
    "GatedLayerSteps",
    "GatedResnet",
    "GatedResnetRows",
    "GatedResnetSteps",
    "GatedStacks",
    "GatedStacksSteps",
    "HorizontalConv",
    "Intensity",
    "MaskedHead",
    "MaskedHeadSteps",
    "MixtureHead",
    "MixtureHeadSteps",
    "PixelHead",
    "PixelHeadSteps",
    "PixelLinear",
    "RasterTransformer",
    "Recomputing",
    "Scale",
    "ScaledIntensity",
    "ShiftedConv",
    "ShiftedConvSteps",
    "ShiftedStart",
    "ShiftedStartSteps",
    "ShiftedUpsampling",
    "SliceEmbedder",
    "Stream",
    "StrictAttention",
    "StrictAttentionSteps",
    "TransformerSteps",
    "UpsamplingSteps",
    "VerticalConv",
    "build_intensity",
    "context_reach",
    "coordinates",
    "down_right_shifted",
    "down_shift",
    "down_shifted",
    "embedder_dilations",
    "fold_weight_norm",
    "initialised_by_data",
    "raster_shift",
    "recompute_layers",
    "right_shift",
    "shifted_row",
    "vertical_row",
    "with_ones",
]
