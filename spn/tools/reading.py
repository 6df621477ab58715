"""Reads a person's pictures and arrays as levels of a model."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from spn.api.arrays import Array, Images, as_levels
from spn.api.pictures import find_pictures, fit_picture, open_picture, read_picture
from spn.config import DataSection, InputError
from spn.data.sources.arrays import DAMAGED
from spn.files import check_file, printable
from spn.report.pictures import draw_picture

ARRAY = ".npy"
FIT = "--fit reduces pictures"


def read_levels(
    paths: Sequence[Path],
    data: DataSection,
    *,
    fit: bool = False,
    shape: tuple[int, int, int] | None = None,
    lossless: bool = False,
    all_bits: bool = True,
) -> tuple[list[str], Images]:
    """Read pictures, folders of pictures and .npy arrays uint8 [N, H, W, C] of levels; return a name for each image.

    `shape` is the expected height, width and channels, by default those of the data. With `fit` pictures of at least
    this size are cropped and resized. With `lossless` pictures are refused that have colours, transparency or (with
    `all_bits`) levels which a model does not have. Raises InputError for files of another size, mode or depth.
    """
    shape = shape or data.shape
    names, parts = [], []
    for path in find_pictures(paths):
        if path.suffix.lower() == ARRAY:
            levels = as_levels(_load(path), shape, data.bits, str(path))
            names += [f"{printable(str(path))}[{number}]" for number in range(len(levels))]
        else:
            levels = (fit_picture if fit else read_picture)(path, data, shape)[None]
            if lossless and not fit:
                _check_mode(path, shape[2])
            if lossless and not fit and all_bits:
                _check_depth(path, levels, data)
            names.append(printable(str(path)))
        parts.append(levels)
    return names, torch.cat(parts)


def _load(path: Path) -> Array:
    check_file(path)
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except DAMAGED as error:
        raise InputError(f"{path}: expected an array: {' '.join(str(error).split())}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: expected an array (.npy), got several (.npz)")
    return array


def _check_mode(path: Path, channels: int) -> None:
    """Raise InputError for a picture whose colours or transparency would be lost."""
    picture = open_picture(path)
    red, green, blue, alpha = np.moveaxis(np.array(picture.convert("RGBA")), -1, 0)
    kind = f"mode {picture.mode}"
    if (alpha < 255).any():
        raise InputError(f"{path}: expected an opaque picture, got a transparent one ({kind}); {FIT}")
    if channels == 1 and not ((red == green) & (green == blue)).all():
        raise InputError(f"{path}: expected shades of grey, got colours ({kind}); {FIT}")


def _check_depth(path: Path, levels: Images, data: DataSection) -> None:
    """Raise InputError unless a picture is what `levels` are drawn as, or has zeros for the bits that were dropped."""
    with Image.open(io.BytesIO(draw_picture(levels[0], data.white_level))) as again:
        pixels = np.array(open_picture(path).convert(again.mode))
        is_drawn = np.array_equal(np.array(again), pixels)
    dropped = (1 << (8 - data.bits)) - 1
    if not is_drawn and (data.white_level < (1 << data.bits) - 1 or (pixels & dropped).any()):
        raise InputError(
            f"{path}: expected {data.bits} bits ({data.white_level + 1} levels), got 8 bits with others of their 256 "
            f"levels; {FIT}"
        )
