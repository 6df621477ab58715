"""Writes images as a picture, an array, an HDF5 file or a folder of pictures."""

import io
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


def check_output(output: Path) -> None:
    """Raise InputError unless the path is of a kind that can be written."""
    if output.suffix.lower() not in ("", ".png", ".npy", ".h5"):
        raise InputError(f"--output: expected .png, .npy, .h5, or a folder without a suffix, got {output}")


def write_output(
    model: ChainModel,
    output: Path,
    images: Images,
    grid: UInt8[Tensor, "tile height width channel"],
    columns: int | None,
) -> None:
    """Write images by the suffix of `output`.

    .png is a picture of `grid` with so many columns, .npy an array uint8 [N, H, W, C] of levels, .h5 a file of images
    like those of the workflow; a path without a suffix is a folder of PNG pictures.
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
            write_images(output, images, {"chain": model.chain, "model": str(model.path)})
        case _:
            for number, image in enumerate(images):
                write_bytes(output / f"{number:04}.png", draw_picture(image, white))
