"""Turns one picture file into one square image of levels.

The rule: take the first frame and turn it by its EXIF orientation; ignore transparency; convert to grey or RGB by
Pillow's `convert`, without colour management; crop; resize on the stored levels.
"""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from spn.config import PICTURE_FORMATS, FolderData
from spn.data.sources.jpeg import JPEG_START, scan_damage

MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
"""Pillow's modes of at most 8 bits a channel."""

DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    zlib.error,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""Errors of Pillow's decoders for files that are damaged, truncated, too large or of another kind."""


BITS_PER_SAMPLE = 258
"""TIFF's tag for the bits of each channel, which Pillow's raw modes of channels stored one by one do not tell."""

DEEP = re.compile(";16[BLN]")
"""In Pillow's raw modes: 16 bits a channel, in some order of bytes."""


class PictureError(ValueError):
    """A picture cannot be used; the message says why in a few words."""


@contextmanager
def opened_picture(file: Any, formats: Iterable[str]) -> Iterator[Image.Image]:
    """Open a path or file as a picture of one of Pillow's formats; too many pixels are an error, and nothing warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=sorted({*formats})) as opened:
            yield opened


def is_deep(opened: Image.Image) -> bool:
    """Tell whether a file that is open, and not loaded yet, has more than 8 bits a channel.

    Of modes that have 8, such as RGB, Pillow drops the others in silence when it loads them.
    """
    if max(getattr(opened, "tag_v2", {}).get(BITS_PER_SAMPLE, (1,))) > 8:
        return True
    for codec, _, _, arguments in getattr(opened, "tile", ()):
        each = arguments if isinstance(arguments, tuple) else (arguments,)
        if codec.startswith("ppm") and isinstance(each[-1], int) and each[-1] > 255:
            return True
        if any(isinstance(argument, str) and DEEP.search(argument) for argument in each):
            return True
    return False


def decode_picture(content: bytes, section: FolderData) -> UInt8[np.ndarray, "size size channel"]:
    """Decode, orient, convert and fit one picture; raise PictureError if it cannot be used."""
    try:
        with opened_picture(io.BytesIO(content), PICTURE_FORMATS.values()) as opened:
            deep = is_deep(opened)
            picture = ImageOps.exif_transpose(opened)
    except DAMAGED as error:
        raise PictureError(_reason(error)) from error
    if content.startswith(JPEG_START) and (damage := scan_damage(content)) is not None:
        raise PictureError(damage)
    if picture.mode not in MODES:
        raise PictureError(f"levels of mode {picture.mode}")
    if deep:
        raise PictureError("levels of more than 8 bits")
    if min(picture.size) < section.size:
        raise PictureError(f"{picture.height}x{picture.width}")
    levels = np.asarray(_fit(picture, section))
    return levels.reshape(section.shape)


def _fit(picture: Image.Image, section: FolderData) -> Image.Image:
    """Crop to the centre square, and convert before resizing, because palettes cannot be averaged."""
    side = section.size if section.fit == "crop" else min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    square.info.pop("transparency", None)
    square = square.convert("L" if section.channels == 1 else "RGB")
    return square.resize((section.size, section.size), Image.Resampling[section.filter.upper()])


def _reason(error: BaseException) -> str:
    """Shorten Pillow's message to a few words on one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels"
    return " ".join(str(error).split())[:60] or type(error).__name__
