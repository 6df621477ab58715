"""Whole images in HDF5: the samples of chains, with their labels."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from spn.data.layout import LABELS
from spn.data.seal import create_sealed, open_sealed
from spn.notes import Notes

IMAGES = "images"


def write_images(
    path: Path,
    images: UInt8[Tensor, "image height width channel"],
    notes: Notes,
    labels: Int64[Tensor, " image"] | None = None,
) -> None:
    """Write images, labels if any, and notes; nothing appears at `path` before all is written."""
    with create_sealed(path) as file:
        file.create(IMAGES, tuple(images.shape), "u1")
        file.append(IMAGES, images.numpy())
        if labels is not None:
            file.create(LABELS, tuple(labels.shape), "<i8")
            file.append(LABELS, labels.numpy())
        file.notes |= notes


def read_images(path: Path) -> tuple[UInt8[Tensor, "image height width channel"], Notes]:
    """Read images that `write_images` wrote; raise InputError if the file is missing, damaged or of another kind."""
    with _open_images(path) as (file, notes):
        images = file[IMAGES][()]
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"images are {images.dtype} {images.shape}, not uint8 [N, H, W, C]")
        return torch.from_numpy(images), notes


def read_image_labels(path: Path) -> Int64[Tensor, " image"] | None:
    """Read the labels that `write_images` wrote; None if there are none."""
    with _open_images(path) as (file, _):
        if LABELS not in file:
            return None
        labels = file[LABELS][()]
        if labels.dtype != np.int64 or labels.shape != file[IMAGES].shape[:1]:
            raise ValueError(f"labels are {labels.dtype} {labels.shape}, not int64 [N]")
        return torch.from_numpy(labels)


@contextmanager
def _open_images(path: Path) -> Iterator[tuple[h5py.File, Notes]]:
    """Open a file of images, with its notes; all its bytes are checked, because there are few."""
    with open_sealed(path, "images") as (file, seal):
        seal.check_all()
        yield file, seal.notes
