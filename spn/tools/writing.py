"""Writes images as a picture, an array, an HDF5 file or a folder of pictures."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from spn.api import ChainModel
from spn.api.arrays import Images
from spn.config import InputError
from spn.data.images import write_images
from spn.files import write_bytes
from spn.report.pictures import draw_grid, draw_picture
from spn.shapes import Labels


def check_images_output(output: Path, read: Sequence[Path]) -> None:
    """Raise InputError unless images can be written by `write_output`; `read` is as in `check_output`."""
    if output.suffix.lower() not in ("", ".png", ".npy", ".h5"):
        raise InputError(f"--output: expected .png, .npy, .h5, or a folder without a suffix, got {output}")
    check_output("--output", output, read, is_folder=not output.suffix)


def check_output(option: str, output: Path, read: Sequence[Path], is_folder: bool = False) -> None:
    """Raise InputError, before anything is computed, if a file or folder cannot be written or is one of those `read`.

    `read` are files, and folders all of whose files are read. A folder is not written to if one of them lies there
    under a number, because pictures are written by number.
    """
    if output.exists() and output.is_dir() != is_folder:
        kinds = ("a file", "a folder")
        raise InputError(f"{option}: expected {kinds[is_folder]} to write, got {kinds[output.is_dir()]}: {output}")
    place = output if is_folder else output.parent
    place = next(each for each in (place, *place.parents) if each.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{option}: expected a folder that can be written to, got {place} for {output}")
    if not output.exists():
        return
    for each in (each for path in read for each in _files(path)):
        if output.samefile(each):
            raise InputError(f"{option}: expected another file than those that are read, got {output}")
        if is_folder and output.samefile(each.parent) and _is_numbered(each):
            raise InputError(f"{option}: expected another folder than that of {each}, which is read, got {output}")


def check_numbers(output: Path, count: int) -> None:
    """Raise InputError if a folder has pictures by number of an earlier run that `count` new ones would not replace."""
    for each in sorted(_files(output) if output.is_dir() else []):
        if _is_numbered(each) and int(each.stem) >= count:
            raise InputError(f"--output: expected no numbered pictures but the {count} to write, got {each}")


def _numbered(number: int) -> str:
    return f"{number:04}.png"


def _is_numbered(file: Path) -> bool:
    return file.stem.isdecimal() and file.name == _numbered(int(file.stem))


def _files(path: Path) -> list[Path]:
    """Return a file, or those in a folder; none for what is not there, which is told where it is read."""
    return [each for each in (path.iterdir() if path.is_dir() else [path]) if each.is_file()]


def write_output(
    model: ChainModel,
    output: Path,
    images: Images,
    grid: UInt8[Tensor, "tile height width channel"],
    columns: int | None,
    labels: Labels | None,
) -> None:
    """Write images by the suffix of `output`.

    .png is a picture of `grid` with so many columns, .npy an array uint8 [N, H, W, C] of levels, .h5 a file of images
    like those of the workflow, with their classes; a path without a suffix is a folder of PNG pictures. Raises
    InputError if it has others of an earlier run.
    """
    white = model.params.data.white_level
    match output.suffix.lower():
        case ".png":
            write_bytes(output, draw_grid(grid, white, columns))
        case ".npy":
            content = io.BytesIO()
            np.save(content, images.numpy(), allow_pickle=False)
            write_bytes(output, content.getvalue())
        case ".h5":
            # A caption that is no class's name gives images no class.
            classes = labels if labels is not None and labels.ndim == 1 else None
            write_images(output, images, {"chain": model.chain, "model": str(model.path)}, classes)
        case _:
            check_numbers(output, len(images))
            for number, image in enumerate(images):
                write_bytes(output / _numbered(number), draw_picture(image, white))
