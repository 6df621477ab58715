"""Pictures of likelihoods: the bits of every pixel, and pictures sorted by their bits/dim."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spn.files import write_bytes

PANEL = 1.5
"""Inches of a panel's width."""
MOST_PANELS = 64
"""Maximum number of pictures that are drawn; a larger figure could not be looked at."""
DPI = 120

Pictures = UInt8[np.ndarray, "image height width channel"]


def draw_maps(
    path: Path,
    images: Pictures,
    bits: Float64[np.ndarray, "image row column"],
    names: Sequence[str],
    total: Float64[np.ndarray, " image"],
    white_level: int,
    unit: str,
    of_each: str,
) -> None:
    """Write a PNG with the first pictures, and beside each the bits of its pixels, all on one scale of colours.

    `unit` is that of `total`, and `of_each` says what the bits of a map are those of.
    """
    count = min(len(images), MOST_PANELS)
    figure = Figure(figsize=(2 * PANEL + 1.4, count * (PANEL + 0.3)), dpi=DPI, layout="constrained")
    axes = figure.subplots(count, 2, squeeze=False)
    highest = float(bits[:count].max())
    for number, (left, right) in enumerate(axes):
        show_picture(left, images[number], white_level, Path(names[number]).name)
        drawn = right.imshow(bits[number], cmap="viridis", vmin=0, vmax=highest)
        right.set_title(f"{total[number]:.3f} {unit}", fontsize=8 if len(unit) < 10 else 6)
        right.axis("off")
    figure.colorbar(drawn, ax=axes[:, 1], label=f"bits of {of_each}", shrink=min(1.0, 3 / count))
    _save(figure, path)


def draw_sorted(
    path: Path,
    images: Pictures,
    names: Sequence[str],
    total: Float64[np.ndarray, " image"],
    white_level: int,
    unit: str,
) -> None:
    """Write a PNG with pictures from the likeliest to the least likely, and their bits in `unit`."""
    order = np.argsort(total, kind="stable")
    if len(order) > MOST_PANELS:  # both ends, and evenly between
        order = order[np.linspace(0, len(order) - 1, MOST_PANELS).round().astype(int)]
    columns = min(8, math.ceil(math.sqrt(len(order))))
    rows = math.ceil(len(order) / columns)
    figure = Figure(figsize=(columns * PANEL, rows * (PANEL + 0.35)), dpi=DPI, layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for place, number in zip(places, order, strict=False):
        show_picture(place, images[number], white_level, f"{Path(names[number]).name}\n{total[number]:.3f}")
    for place in places[len(order) :]:
        place.axis("off")
    figure.supxlabel(unit, fontsize=8)
    _save(figure, path)


def draw_sources(
    path: Path,
    images: Mapping[str, Pictures],
    bits: Mapping[str, Float64[np.ndarray, " _"]],
    white_level: int,
    unit: str,
) -> None:
    """Write a PNG with a row for each source: the bits of all of its pictures, and some from likeliest to least likely.

    The dashed line is the mean of the first source.
    """
    shown = 6
    figure = Figure(figsize=(6 + shown * 0.8, 0.4 + len(images) * 0.95), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(images), 1 + shown, squeeze=False, width_ratios=[6, *[0.8] * shown])
    low, high = (function([function(each) for each in bits.values()]) for function in (np.min, np.max))
    first, margin = next(iter(bits.values())).mean(), 0.05 * (high - low) or 1.0
    for number, (name, each) in enumerate(bits.items()):
        strip, *places = axes[number]
        jitter = np.random.default_rng(number).random(len(each))
        strip.scatter(each, jitter, s=6, alpha=0.4, linewidths=0)
        strip.axvline(each.mean(), color="black", linewidth=1.5)
        strip.axvline(first, color="black", linestyle="--", linewidth=0.8)
        strip.set(xlim=(low - margin, high + margin), ylim=(-0.1, 1.1), yticks=[])
        strip.set_ylabel(
            name if len(name) < 30 else f"...{name[-26:]}",
            rotation=0,
            ha="right",
            va="center",
            fontsize=8,
            parse_math=False,
        )
        strip.tick_params(labelbottom=number == len(bits) - 1, labelsize=7)
        order = np.argsort(each, kind="stable")
        order = order[np.linspace(0, len(order) - 1, min(shown, len(order))).round().astype(int)]
        for place in places:
            place.axis("off")
        for place, index in zip(places, order, strict=False):
            show_picture(place, images[name][index], white_level, f"{each[index]:.2f}")
    axes[-1][0].set_xlabel(f"{unit}: to the left likelier; black line: mean", fontsize=8)
    _save(figure, path)


def show_picture(place: Axes, image: UInt8[np.ndarray, "height width channel"], white_level: int, title: str) -> None:
    """Show an image of levels, grey or RGB, below a title."""
    shown: Any = np.minimum(image / white_level, 1.0)
    place.imshow(shown[..., 0] if image.shape[-1] == 1 else shown, cmap="gray", vmin=0, vmax=1)
    place.set_title(title if len(title) < 30 else f"...{title[-26:]}", fontsize=7, parse_math=False)
    place.axis("off")


def _save(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_bytes(path, content.getvalue())
