"""Reads a person's own pictures and masks."""

import io
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from spn.config import PICTURE_FORMATS, DataSection, FolderData, InputError
from spn.data.sources.jpeg import JPEG_START, scan_damage
from spn.data.sources.picture import DAMAGED, MODES, PictureError, decode_picture, is_deep, opened_picture
from spn.evaluation.inpainting import Mask
from spn.files import check_file


def read_picture(
    path: Path, data: DataSection, shape: tuple[int, int, int] | None = None
) -> UInt8[Tensor, "height width channel"]:
    """Read a picture of a shape, by default that of the data's images, as levels; raise InputError if it is none."""
    height, width, channels = shape or data.shape
    pixels = torch.from_numpy(_read(path, height, width, "RGB" if channels == 3 else "L")).view(height, width, channels)
    return _levels(pixels, data)


def _levels(pixels: UInt8[Tensor, "height width channel"], data: DataSection) -> UInt8[Tensor, "height width channel"]:
    whole = data.white_level == (1 << data.bits) - 1
    # As preprocess does: low bits are dropped. Images whose white is no power of two less one are scaled.
    return pixels >> (8 - data.bits) if whole else ((pixels.int() * data.white_level + 127) // 255).to(torch.uint8)


def fit_picture(
    path: Path, data: DataSection, shape: tuple[int, int, int] | None = None
) -> UInt8[Tensor, "height width channel"]:
    """Read a picture of at least a shape: its centre square, resized (Pillow's box filter).

    The shape is by default that of the data's images. Raises InputError if it cannot be read or is too small.
    """
    height, width, channels = shape or data.shape
    if height != width:
        raise InputError(f"--fit: expected a model of square images, got one of {height}x{width}")
    kind = {"source": "folder", "name": "pictures", "fit": "resize", "filter": "box"}
    section = FolderData.model_validate({**kind, "bits": 8, "size": height, "channels": channels})
    try:
        pixels = torch.from_numpy(decode_picture(_content(path), section).copy())
    except PictureError as error:
        raise InputError(
            f"{path}: expected a whole picture of at least {height}x{width} pixels and at most 8 bits a channel, got: "
            f"{error}"
        ) from error
    return _levels(pixels, data)


def find_pictures(paths: Sequence[Path], suffixes: Collection[str] = tuple(PICTURE_FORMATS)) -> list[Path]:
    """List files, and the pictures in folders in the order of their names; raise InputError if there are none."""
    found = []
    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix.lower() in suffixes)
            if not inside:
                raise InputError(f"{path}: expected pictures ({', '.join(suffixes)}), found none")
        found += inside
    return found


def read_mask(path: Path, height: int, width: int) -> Mask:
    """Read a mask of this size, whose pixels that are not black are hidden; raise InputError if it is none."""
    hidden = torch.from_numpy(_read(path, height, width, "L")) > 0
    if not hidden.any():
        raise InputError(f"{path}: expected a mask that hides something, got all black")
    return hidden


def open_picture(path: Path) -> Image.Image:
    """Decode a picture as those of a folder to train on are: its first frame, turned by its EXIF orientation.

    Raises InputError if it cannot be read, is damaged, too large, or has more than 8 bits a channel.
    """
    content = _content(path)
    try:
        with opened_picture(io.BytesIO(content), PICTURE_FORMATS.values()) as opened:
            deep = is_deep(opened)
            picture = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: expected a picture, got another kind of file") from error
    except DAMAGED as error:
        raise InputError(f"{path}: expected a whole picture, got: {' '.join(str(error).split())}") from error
    if content.startswith(JPEG_START) and (damage := scan_damage(content)) is not None:
        raise InputError(f"{path}: expected a whole picture, got: {damage}")
    if picture.mode not in MODES:
        raise InputError(f"{path}: expected levels of at most 8 bits, got mode {picture.mode}")
    if deep:
        raise InputError(f"{path}: expected levels of at most 8 bits, got more")
    return picture


def _content(path: Path) -> bytes:
    check_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a picture: {error.strerror or error}") from error


def _read(path: Path, height: int, width: int, mode: str) -> UInt8[np.ndarray, "..."]:
    picture = open_picture(path)
    if picture.size != (width, height):
        found = "x".join(map(str, picture.size))
        raise InputError(f"{path}: expected {width}x{height} pixels (width x height), got {found}")
    picture.info.pop("transparency", None)  # of which Pillow would warn
    return np.array(picture.convert(mode))
