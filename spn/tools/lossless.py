"""Reads pictures whose pixels are coded without loss.

Policy: the pixels as they are stored, without turning them by EXIF; palettes as the colours they stand for. Colour
profiles, EXIF and other remarks are left out, and named. Transparency, more than 8 bits, several frames, colour
spaces other than grey and RGB, TIFFs that are stored turned, and PPMs whose white is not 255 are refused. Formats: PNG,
BMP, TIFF and PPM.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from PIL.ExifTags import TAGS

from spn.codec.tiles import Picture
from spn.config import DataSection, InputError
from spn.data.sources.picture import DAMAGED, is_deep, opened_picture
from spn.report.pictures import brightness

FORMATS = ("PNG", "BMP", "TIFF", "PPM")
SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}
"""Pillow's modes that are coded, and what they are coded as."""
REMARKS = {
    "icc_profile": "colour profile",
    "gamma": "gamma",
    "chromaticity": "chromaticities",
    "exif": "EXIF",
    "xmp": "XMP",
    "comment": "comment",
}
"""What a picture may have beside its pixels, by Pillow's names."""
NOT_TEXT = {"XML:com.adobe.xmp"}
"""Texts of a PNG that are something else."""
TIFF_TEXT = (270, 305, 306, 315, 33432)
"""Tags of TIFF: description, software, date, artist and copyright."""
ORIENTATION, UPRIGHT = 274, 1
"""A tag of TIFF, and its value for pixels that are stored as they are shown."""
WHITE = 255

Pixels = UInt8[np.ndarray, "height width channel"]


class Read(NamedTuple):
    """A picture to code."""

    levels: Picture
    is_grey: bool
    """Whether it is a grey picture, coded as RGB."""
    left_out: list[str]
    """What it has beside its pixels."""


def read_lossless(path: Path, data: DataSection) -> Read:
    """Read a picture as levels; raise InputError if a model of such data cannot code it without loss."""
    pixels, left_out = _read(path)
    channels = data.shape[2]
    if pixels.shape[2] > channels:
        raise InputError(f"{path}: expected a grey picture, as the model's images are, got one of RGB")
    is_grey = pixels.shape[2] < channels
    pixels = np.repeat(pixels, channels, axis=2) if is_grey else pixels
    white = data.white_level
    shown = brightness(np.arange(white + 1, dtype=np.uint8), white)
    levels = np.searchsorted(shown, pixels).clip(max=white).astype(np.uint8)
    if not np.array_equal(shown[levels], pixels):
        raise InputError(
            f"{path}: expected the {white + 1} brightnesses of the model's levels of {data.bits} bits, from 0 to 255 "
            "in equal steps, got others between them"
        )
    return Read(torch.from_numpy(levels), is_grey, left_out)


def _read(path: Path) -> tuple[Pixels, list[str]]:
    """Return the pixels of a file, and the names of what it has beside them."""
    try:
        with opened_picture(path, FORMATS) as picture:
            _check(path, picture)
            pixels = np.atleast_3d(np.array(picture.convert(MODES[picture.mode])))
            return pixels, _left_out(picture)  # once it is loaded, because remarks may come after the pixels
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: expected a picture, found no file") from error
    except DAMAGED as error:
        kinds = ", ".join(FORMATS)
        raise InputError(f"{path}: expected a whole picture ({kinds}), got: {' '.join(str(error).split())}") from error


def _left_out(picture: Image.Image) -> list[str]:
    remarks = [name for key, name in REMARKS.items() if key in picture.info]
    texts = [key for key in getattr(picture, "text", {}) if key not in NOT_TEXT]
    tags = getattr(picture, "tag_v2", {})
    return remarks + [f"text {key}" for key in (*texts, *(TAGS[tag] for tag in TIFF_TEXT if tag in tags))]


def _check(path: Path, picture: Image.Image) -> None:
    if (frames := getattr(picture, "n_frames", 1)) > 1:
        raise InputError(f"{path}: expected one frame, got {frames}")
    if "transparency" in picture.info or picture.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        raise InputError(f"{path}: expected a picture without transparency, got one with it (mode {picture.mode})")
    if picture.mode not in MODES:
        raise InputError(f"{path}: expected grey or RGB of at most 8 bits, got mode {picture.mode}")
    if is_deep(picture):
        raise InputError(f"{path}: expected grey or RGB of at most 8 bits, got more")
    # Pillow turns a TIFF when it loads it, and gets some wrong; and it stretches the levels of a PPM to 255.
    if (turned := getattr(picture, "tag_v2", {}).get(ORIENTATION, UPRIGHT)) != UPRIGHT:
        raise InputError(f"{path}: expected a TIFF that is stored as it is shown (orientation 1), got {turned}")
    if (white := _white_of_ppm(picture)) != WHITE:
        raise InputError(f"{path}: expected a PPM of levels 0 to {WHITE}, got 0 to {white}")


def _white_of_ppm(picture: Image.Image) -> int:
    """Return the level of white that a PPM states, before it is loaded."""
    for codec, _, _, arguments in getattr(picture, "tile", ()):
        if codec.startswith("ppm") and isinstance(arguments, tuple) and isinstance(arguments[-1], int):
            return arguments[-1]
    return WHITE
