"""Images in HDF5: the slice tensors that stages train on, and the samples that chains write.

Slices are contiguous and uncompressed, so that a reader maps them into memory at their offset in the file: random
batches come an order of magnitude faster than through h5py. Files hold no times: written again, they are bit-identical.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from spn.config import InputError
from spn.data.layout import LAYOUT_VERSION, SPLITS, Layout, Origin, Split
from spn.data.seal import SealedWriter, create_sealed, open_sealed
from spn.image import join_bits, split_bits, split_slices
from spn.notes import Notes

IMAGES = "images"
LABELS = "labels"


class SliceWriter:
    """Appends images, split by split, to datasets of their final size."""

    def __init__(self, file: SealedWriter, layout: Layout, counts: Mapping[Split, int], labelled: set[Split]) -> None:
        self._file = file
        self._layout = layout
        self._counts = dict(counts)
        self._written = dict.fromkeys(SPLITS, 0)
        for split in SPLITS:
            for name in layout.range_names:
                file.create(f"{split}/{name}", (counts[split], *layout.slices_shape), "u1")
            if split in labelled:
                file.create(f"{split}/{LABELS}", (counts[split],), "<i8")

    def append(
        self, split: Split, images: UInt8[np.ndarray, "image height width channel"], labels: Sequence[int] | None
    ) -> None:
        """Write the next images of a split, with their labels where the split has any."""
        assert images.max() < 1 << self._layout.bits
        slices = split_slices(images, self._layout.scale_factor)
        for name, levels in zip(self._layout.range_names, split_bits(slices, self._layout.cuts), strict=True):
            self._file.append(f"{split}/{name}", levels)
        if labels is not None:
            self._file.append(f"{split}/{LABELS}", np.array(labels, dtype="<i8"))
        self._written[split] += len(images)

    def finish(self, origin: Origin, notes: Notes | None = None) -> None:
        """Describe what was written, and what it was made from; every split must be complete."""
        assert self._written == self._counts, f"expected {self._counts} images, got {self._written}"
        height, width, channels = self._layout.shape
        attributes = self._file.attributes
        attributes.update(asdict(origin))
        attributes.update({f"num_images_{split}": count for split, count in self._counts.items()})
        attributes.update({"height": height, "width": width, "channels": channels})
        attributes.update({"scale_factor": self._layout.scale_factor, "cuts": self._layout.cuts})
        attributes.update({"bits": self._layout.bits, "digest": self._file.digest(), "layout_version": LAYOUT_VERSION})
        self._file.notes |= (notes or {}) | {"digest": attributes["digest"], "source_digest": origin.source_digest}


@contextmanager
def create_slices(
    path: Path, layout: Layout, counts: Mapping[Split, int], labelled: set[Split]
) -> Iterator[SliceWriter]:
    """Write a file of slices; nothing appears at `path` before all is written."""
    with create_sealed(path) as file:
        yield SliceWriter(file, layout, counts, labelled)


class SliceFile:
    """Reads a file of slices; may be pickled and forked, because it holds no h5py object.

    `digest` is the SHA-256 over the content of all datasets. Raises InputError where the file is missing, damaged or
    not one of slices. The slices of a split are compared with their digest when they are first read, which reads all of
    them; so it takes no time to open a file for its `digest`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_sealed(path, "slices written by preprocess") as (file, self._seal):
            version = file.attrs.get("layout_version")
            if version != LAYOUT_VERSION:
                raise ValueError(f"layout version {version}, not {LAYOUT_VERSION}")
            attributes = _plain(file.attrs)
            layout = _read_layout(attributes)
            origin = Origin(**{field.name: attributes[field.name] for field in fields(Origin)})
            self.digest: str = attributes["digest"]
            self._counts: dict[Split, int] = {split: attributes[f"num_images_{split}"] for split in SPLITS}
            self._ranges = {split: self._map_ranges(file, split, layout) for split in SPLITS}
            self._labels = {split: self._map_labels(file, split) for split in SPLITS}
            self._seal.check(f"{split}/{LABELS}" for split, labels in self._labels.items() if labels is not None)
        self._unread = {split: [f"{split}/{name}" for name in layout.range_names] for split in SPLITS}
        self.scale_factor, self.cuts, self.bits, self.shape = (
            layout.scale_factor,
            layout.cuts,
            layout.bits,
            layout.shape,
        )
        self.dataset, self.source, self.release = origin.dataset, origin.source, origin.release
        self.source_digest, self.limit = origin.source_digest, origin.limit
        self.skipped, self.duplicates = origin.skipped, origin.duplicates

    def __reduce__(self) -> tuple[type["SliceFile"], tuple[Path]]:
        return SliceFile, (self.path,)

    def num_images(self, split: Split) -> int:
        """Count the images of a split."""
        return self._counts[split]

    def num_bytes(self, split: Split) -> int:
        """Count the bytes of a split's slices, joined to levels."""
        return self._ranges[split][0].nbytes

    def slices(
        self, split: Split, indices: Int64[Tensor, " batch"] | Int64[np.ndarray, " batch"]
    ) -> UInt8[Tensor, "batch S S height width channel"]:
        """Read the slices of some images, all bit ranges joined to levels."""
        self._seal.check(self._unread[split])
        self._unread[split] = []
        chosen = torch.as_tensor(indices)
        parts = [levels.index_select(0, chosen) for levels in self._ranges[split]]
        # A single range is the levels: shifting it by nothing takes longer than reading it.
        return parts[0] if len(parts) == 1 else join_bits(parts, self.cuts)

    def labels(
        self, split: Split, indices: Int64[Tensor, " batch"] | Int64[np.ndarray, " batch"]
    ) -> Int64[Tensor, " batch"] | None:
        """Read the labels of some images; None where the split has none."""
        labels = self._labels[split]
        return None if labels is None else labels.index_select(0, torch.as_tensor(indices))

    def check_labels(self, num_classes: int) -> None:
        """Raise InputError, naming the split, unless every image has a label from 0 to `num_classes` - 1."""
        for split, labels in self._labels.items():
            expected = f"{self.path}: expected labels 0 to {num_classes - 1} in split {split}"
            if labels is None:
                raise InputError(f"{expected}, got none")
            if len(others := labels[(labels < 0) | (labels >= num_classes)]):
                raise InputError(f"{expected}, got {others[0]}")

    def _map_ranges(self, file: h5py.File, split: Split, layout: Layout) -> list[Tensor]:
        shape = (self._counts[split], *layout.slices_shape)
        return [self._map(file[f"{split}/{name}"], shape, "u1") for name in layout.range_names]

    def _map_labels(self, file: h5py.File, split: Split) -> Tensor | None:
        name = f"{split}/{LABELS}"
        return self._map(file[name], (self._counts[split],), "<i8") if name in file else None

    def _map(self, dataset: h5py.Dataset, shape: tuple[int, ...], dtype: str) -> Tensor:
        offset = dataset.id.get_offset()
        if dataset.shape != shape or dataset.dtype != np.dtype(dtype) or offset is None:
            raise ValueError(f"{dataset.name} is {dataset.dtype} {dataset.shape}, not contiguous {dtype} {shape}")
        # Copy on write, though nobody writes: torch takes no read-only array.
        return torch.from_numpy(np.asarray(np.memmap(self.path, dtype, "c", offset, shape)))


def write_images(
    path: Path,
    images: UInt8[Tensor, "image height width channel"],
    notes: Notes,
    labels: Int64[Tensor, " image"] | None = None,
) -> None:
    """Write images, their labels if any, and the notes on them; nothing appears at `path` before all is written."""
    with create_sealed(path) as file:
        file.create(IMAGES, tuple(images.shape), "u1")
        file.append(IMAGES, images.numpy())
        if labels is not None:
            file.create(LABELS, tuple(labels.shape), "<i8")
            file.append(LABELS, labels.numpy())
        file.notes |= notes


def read_images(path: Path) -> tuple[UInt8[Tensor, "image height width channel"], Notes]:
    """Read what `write_images` wrote; raise InputError where the file is missing, damaged or another."""
    with _open_images(path) as (file, notes):
        images = file[IMAGES][()]
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"images are {images.dtype} {images.shape}, not uint8 [N, H, W, C]")
        return torch.from_numpy(images), notes


def read_image_labels(path: Path) -> Int64[Tensor, " image"] | None:
    """Read the labels that `write_images` wrote beside its images; None where there are none."""
    with _open_images(path) as (file, _):
        if LABELS not in file:
            return None
        labels = file[LABELS][()]
        if labels.dtype != np.int64 or labels.shape != file[IMAGES].shape[:1]:
            raise ValueError(f"labels are {labels.dtype} {labels.shape}, not int64 [N]")
        return torch.from_numpy(labels)


@contextmanager
def _open_images(path: Path) -> Iterator[tuple[h5py.File, Notes]]:
    """Open a file of images, with its notes; they are few, so that all bytes are checked."""
    with open_sealed(path, "images") as (file, seal):
        seal.check(seal.extents)
        yield file, seal.notes


def _plain(attributes: h5py.AttributeManager) -> dict[str, Any]:
    """Turn numpy's scalars and arrays into Python's."""
    return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in attributes.items()}


def _read_layout(attributes: Mapping[str, Any]) -> Layout:
    shape = attributes["height"], attributes["width"], attributes["channels"]
    return Layout(attributes["scale_factor"], tuple(attributes["cuts"]), shape)
