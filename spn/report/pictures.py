"""Grids of images as PNG."""

import io
import math
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Int, Int64, UInt8
from PIL import Image
from torch import Tensor

from spn.files import write_bytes

TILE_WIDTH = 48
"""Minimum width of a tile in pixels; narrower images are enlarged by a whole factor."""

GAP = 2
GAP_GREY = 128
"""The grey between tiles, visible beside black and beside white."""


MOST_CLASSES = 16
"""Maximum number of classes for a grid with a column for each."""


def class_columns(labels: Int[Tensor, " image"] | None) -> int | None:
    """Return the number of columns of a grid with a column for each class; None for a nearly square grid."""
    count = 0 if labels is None else len(labels.unique())
    return count if 1 < count <= MOST_CLASSES else None


def evenly_spaced(count: int, num_images: int) -> Int64[Tensor, " image"]:
    """Choose `count` of `num_images` images, all of them if there are fewer, evenly spaced from the first on.

    Neighbours in a split may be alike: crops of one photograph, or frames of one film.
    """
    count = min(count, num_images)
    return torch.arange(count) * num_images // count


def save_grid(
    images: UInt8[np.ndarray | Tensor, "image height width channel"],
    white_level: int,
    path: Path,
    columns: int | None = None,
) -> None:
    """Write the picture that `draw_grid` draws."""
    write_bytes(path, draw_grid(images, white_level, columns))


def draw_grid(
    images: UInt8[np.ndarray | Tensor, "image height width channel"], white_level: int, columns: int | None = None
) -> bytes:
    """Draw images of levels, grey or RGB, as one PNG, left to right and top to bottom.

    Level 0 is black; `white_level` and anything above it, which a model may sample although no image has it, is white.
    Without `columns` the grid is nearly square.
    """
    levels = np.asarray(images)
    assert len(levels) > 0, "a grid needs an image"
    return _png(_arrange(_enlarge(brightness(levels, white_level)), columns or math.ceil(math.sqrt(len(levels)))))


def draw_picture(image: UInt8[np.ndarray | Tensor, "height width channel"], white_level: int) -> bytes:
    """Draw one image of levels as PNG, a pixel for a pixel."""
    return _png(brightness(np.asarray(image), white_level))


def _png(pixels: UInt8[np.ndarray, "height width channel"]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(content, format="PNG")
    return content.getvalue()


def brightness(levels: UInt8[np.ndarray, "*shape"], white_level: int) -> UInt8[np.ndarray, "*shape"]:
    """Scale levels to 0 .. 255, rounding to the nearest."""
    capped = np.minimum(levels, white_level).astype(np.uint16)
    return ((capped * 255 + white_level // 2) // white_level).astype(np.uint8)


def tile_factor(width: int) -> int:
    """Return by how much an image of this width is enlarged."""
    return math.ceil(TILE_WIDTH / width)


def _enlarge(
    images: UInt8[np.ndarray, "image height width channel"],
) -> UInt8[np.ndarray, "image tile_height tile_width channel"]:
    factor = tile_factor(images.shape[2])
    return repeat(images, "n h w c -> n (h a) (w b) c", a=factor, b=factor)


def _arrange(
    tiles: UInt8[np.ndarray, "image height width channel"], columns: int
) -> UInt8[np.ndarray, "rows columns channel"]:
    """Lay tiles in rows with a gap around each; empty places are grey like the gaps."""
    count, height, width, channels = tiles.shape
    places = math.ceil(count / columns) * columns
    framed = np.full((places, height + GAP, width + GAP, channels), GAP_GREY, dtype=np.uint8)
    framed[:count, GAP:, GAP:] = tiles
    grid = rearrange(framed, "(rows columns) h w c -> (rows h) (columns w) c", columns=columns)
    return np.pad(grid, ((0, GAP), (0, GAP), (0, 0)), constant_values=GAP_GREY)
