"""The relative window of the slice embedder (Menick & Kalchbrenner 2018, Fig. 4a).

Cell (di, dj) of the window of slice (m, n) is the slice (m + di, n + dj); at pixel (i, j) it holds the pixel
(iS + m + di, jS + n + dj) of the image. A channel of the window always means the same relative offset.
"""

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from spn.shapes import Positions, Slices

Offset = tuple[int, int]


def window_offsets(scale_factor: int) -> list[Offset]:
    """List the (2S-1)^2 offsets between two slices, in raster order."""
    reach = range(1 - scale_factor, scale_factor)
    return [(di, dj) for di in reach for dj in reach]


def causal_offsets(scale_factor: int) -> list[Offset]:
    """List the 2S(S-1) offsets at which a slice can precede another: the first half of `window_offsets`."""
    return [offset for offset in window_offsets(scale_factor) if offset < (0, 0)]


def gather_window(
    slices: Slices,
    visible: Int[Tensor, "S S"],
    position: Positions,
    offsets: Int[Tensor, "cell 2"],
) -> tuple[Shaped[Tensor, "batch cell height width channel"], Bool[Tensor, "batch cell"]]:
    """Gather, for each image, the slices at `offsets` from its meta-position.

    `visible` masks the bits of each slice that may be seen. Returns the masked levels, and which cells are present:
    cells outside the grid of slices, or without a visible bit, are absent and hold zeros.
    """
    scale_factor = visible.shape[0]
    row, column = (position[:, None, :] + offsets).unbind(-1)
    inside = (row >= 0) & (row < scale_factor) & (column >= 0) & (column < scale_factor)
    row, column = row.clamp(0, scale_factor - 1), column.clamp(0, scale_factor - 1)
    mask = torch.where(inside, visible[row, column], 0)
    image = torch.arange(len(slices), device=position.device)[:, None]
    return slices[image, row, column] & mask[:, :, None, None, None].to(slices.dtype), mask != 0
