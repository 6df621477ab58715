"""Reads a person's own pictures and masks."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from spn.config import DataSection, InputError
from spn.evaluation.inpainting import Mask


def read_picture(path: Path, data: DataSection) -> UInt8[Tensor, "height width channel"]:
    """Read a picture of the size of the data's images, as levels; raise InputError if it is none."""
    height, width, channels = data.shape
    pixels = torch.from_numpy(_read(path, height, width, "RGB" if channels == 3 else "L")).view(height, width, channels)
    whole = data.white_level == (1 << data.bits) - 1
    # As preprocess does: low bits are dropped. Images whose white is no power of two less one are scaled.
    return pixels >> (8 - data.bits) if whole else ((pixels.int() * data.white_level + 127) // 255).to(torch.uint8)


def read_mask(path: Path, height: int, width: int) -> Mask:
    """Read a mask of this size, whose pixels that are not black are hidden; raise InputError if it is none."""
    hidden = torch.from_numpy(_read(path, height, width, "L")) > 0
    if not hidden.any():
        raise InputError(f"{path}: expected a mask that hides something, got all black")
    return hidden


def _read(path: Path, height: int, width: int, mode: str) -> UInt8[np.ndarray, "..."]:
    try:
        with Image.open(path) as picture:
            if picture.size != (width, height):
                found = "x".join(map(str, picture.size))
                raise InputError(f"{path}: expected {width}x{height} pixels (width x height), got {found}")
            return np.array(picture.convert(mode))
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: expected a picture, got another kind of file") from error
    except OSError as error:
        raise InputError(f"{path}: expected a picture: {error.strerror or error}") from error
