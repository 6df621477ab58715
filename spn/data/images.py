"""Whole images in HDF5: the samples of chains, with their labels, and with their codes if they were decoded."""

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

IMAGES, CODES = "images", "codes"


def write_images(
    path: Path,
    images: UInt8[Tensor, "image height width channel"],
    notes: Notes,
    labels: Int64[Tensor, " image"] | None = None,
    codes: UInt8[Tensor, "image _ _ 1"] | None = None,
) -> None:
    """Write images, the codes that they were decoded from and labels, if any, and notes.

    Nothing appears at `path` before all is written.
    """
    with create_sealed(path) as file:
        for name, levels in ((IMAGES, images), (CODES, codes)):
            if levels is not None:
                file.create(name, tuple(levels.shape), "u1")
                file.append(name, levels.numpy())
        if labels is not None:
            file.create(LABELS, tuple(labels.shape), "<i8")
            file.append(LABELS, labels.numpy())
        file.notes |= notes


def read_images(path: Path) -> tuple[UInt8[Tensor, "image height width channel"], Notes]:
    """Read images that `write_images` wrote; raise InputError if the file is missing, damaged or of another kind."""
    return _read(path, IMAGES)


def read_generated(path: Path) -> tuple[UInt8[Tensor, "image height width channel"], Notes]:
    """Read what a chain generated: the codes if there are any, else the images; raise InputError likewise."""
    with _open_images(path) as (file, _):
        name = CODES if CODES in file else IMAGES
    return _read(path, name)


def _read(path: Path, name: str) -> tuple[UInt8[Tensor, "image height width channel"], Notes]:
    with _open_images(path) as (file, notes):
        images = file[name][()]
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"{name} are {images.dtype} {images.shape}, not uint8 [N, H, W, C]")
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
