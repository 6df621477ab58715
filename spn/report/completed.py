"""The figure of what a chain draws of images, given a part of them, and of the bits of their pixels."""

import io
from collections.abc import Sequence
from textwrap import fill
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from spn.report.bits import DPI, show_picture

PANEL = 0.78
"""Inches of a picture."""
TITLES, SCALE = 0.35, 0.6
"""Inches of the titles, and of the scale of colours."""

TITLE_WIDTH = 11
"""Letters of a line above a picture."""

Images = UInt8[Tensor, "image height width channel"]


class Given(NamedTuple):
    """A part of images, and what was drawn of the rest."""

    title: str
    images: Images
    draws: UInt8[Tensor, "draw image height width channel"]


def draw_completed(
    images: Images,
    completions: Sequence[Given],
    bits: Float64[np.ndarray, "image row column"],
    white_level: int,
) -> bytes:
    """Draw a row for each image: the image, every given part and what was drawn, and the bits of its pixels, as PNG.

    `bits` are those of a chain, for every pixel or code of the images; all are on one scale of colours.
    """
    columns = [("image", images)]
    for each in completions:
        columns += [(each.title, each.images), *(("drawn", drawn) for drawn in each.draws)]
    height, width = images.shape[1:3]
    across, down = (len(columns) + 1) * PANEL, len(images) * PANEL * height / width
    figure = Figure(figsize=(across + SCALE, down + TITLES), dpi=DPI)
    right, top = across / (across + SCALE), down / (down + TITLES)
    edges = {"left": 0.0, "right": right, "bottom": 0.0, "top": top, "wspace": 0.05, "hspace": 0.05}
    axes = figure.subplots(len(images), len(columns) + 1, squeeze=False, gridspec_kw=edges)
    for row, (*places, last) in enumerate(axes):
        for place, (title, shown) in zip(places, columns, strict=True):
            show_picture(place, shown[row].numpy(), white_level, "" if row else fill(title, TITLE_WIDTH))
        drawn = last.imshow(bits[row], cmap="viridis", vmin=0, vmax=float(bits.max()))
        last.set_title("" if row else fill("bits of each pixel", TITLE_WIDTH), fontsize=7)
        last.axis("off")
    inch = 1 / (across + SCALE)
    scale = figure.add_axes((right + 0.1 * inch, 0.05 * top, 0.12 * inch, 0.9 * top))
    figure.colorbar(drawn, cax=scale).ax.tick_params(labelsize=7)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
