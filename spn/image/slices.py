"""Subscale slices (Menick & Kalchbrenner 2018, Sec. 3.1): slice (m, n) holds the pixels [m::S, n::S]."""

from typing import TypeVar

import numpy as np
from einops import rearrange
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)


def split_slices(images: Array, scale_factor: int) -> Array:
    """Cut images [..., H, W, C] into interleaved slices [..., S, S, H/S, W/S, C]; the first S is for rows."""
    return rearrange(images, "... (h m) (w n) c -> ... m n h w c", m=scale_factor, n=scale_factor)


def join_slices(slices: Array) -> Array:
    """Interleave slices [..., S, S, h, w, C] back into images [..., S*h, S*w, C]."""
    return rearrange(slices, "... m n h w c -> ... (h m) (w n) c")
