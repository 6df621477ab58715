"""Masks for inpainting, and how good what fills them is."""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float64, UInt8
from torch import Tensor

from spn.image import split_slices
from spn.models import Model
from spn.shapes import Labels
from spn.stages import Stage

Images = UInt8[Tensor, "image height width channel"]
Mask = Bool[Tensor, "height width"]

HALVES = ("upper", "lower", "left", "right")
"""Masks by name: the half that they hide."""


def hidden_half(name: str, height: int, width: int) -> Mask:
    """Return the mask that hides one of HALVES."""
    hidden = torch.zeros(height, width, dtype=torch.bool)
    along_rows = name in ("upper", "lower")
    size = (height if along_rows else width) // 2
    half = slice(0, size) if name in ("upper", "left") else slice(size, None)
    hidden[(half, slice(None)) if along_rows else (slice(None), half)] = True
    return hidden


def hidden_codes(hidden: Bool[Tensor, "*image height width"], downsampling: int) -> Bool[Tensor, "*image row column"]:
    """Return which codes are hidden: those of squares of pixels of which any is."""
    return rearrange(hidden, "... (h a) (w b) -> ... h w (a b)", a=downsampling, b=downsampling).any(-1)


def absolute_errors(
    filled: UInt8[Tensor, "draw image height width channel"], images: Images, hidden: Mask
) -> Float64[Tensor, " image"]:
    """Return the mean absolute error of each image, in levels, over its hidden pixels and all draws."""
    errors = (filled.double() - images.double()).abs().mean((0, 4))
    return errors[:, hidden].mean(1)


@torch.inference_mode()
def conditional_bits(
    stage: Stage, model: Model, images: Images, hidden: Mask, labels: Labels | None
) -> Float64[Tensor, " image"] | None:
    """Return the exact -log2 p(hidden pixels | known pixels) of each image, in bits per hidden sub-pixel.

    It exists, as a sum of the model's own conditionals, for a stage that generates whole images in raster order, if
    all known pixels come before the hidden ones. Else returns None.
    """
    order = hidden.flatten().tolist()
    plan = stage.plan
    is_whole = plan.scale_factor == 1 and plan.noise is None and plan.bits == (0, plan.image_bits)
    if not is_whole or order != sorted(order):
        return None
    slices = split_slices(images, 1)
    position = stage.positions((0, 0), len(images), images.device)
    target = stage.target(slices, position)
    log_probs = model(target, stage.context(slices, position, labels)).log_prob(target).double()
    num_hidden = sum(order) * stage.shape.channels
    return -log_probs[:, hidden].flatten(1).sum(1) / math.log(2) / num_hidden


def mean_and_error(values: Float64[Tensor, " image"]) -> dict[str, float | None]:
    """Return the mean over images, and its standard error; None for a single image."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": values.mean().item(), "standard_error": error}
