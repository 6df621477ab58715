"""Images in HDF5: the slice tensors that stages train on, and the samples that chains write.

Slices are contiguous and uncompressed, so that a reader maps them into memory at their offset in the file: random
batches come an order of magnitude faster than through h5py. Files hold no times: written again, they are bit-identical.
"""

import hashlib
import os
import secrets
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
from spn.data.digest import listing_sha256
from spn.data.layout import LAYOUT_VERSION, SPLITS, Layout, Origin, Split
from spn.image import join_bits, split_bits, split_slices

IMAGES = "images"
LABELS = "labels"

Attribute = str | int | float
NOT_OURS = (LookupError, ValueError, TypeError, AttributeError, OSError, RuntimeError)
"""What h5py and numpy raise for files that are damaged or of another kind."""


class SliceWriter:
    """Appends images, split by split, to datasets of their final size."""

    def __init__(self, file: h5py.File, layout: Layout, counts: Mapping[Split, int], labelled: set[Split]) -> None:
        self._file = file
        self._layout = layout
        self._counts = dict(counts)
        self._written = dict.fromkeys(SPLITS, 0)
        self._digests: dict[str, Any] = {}
        for split in SPLITS:
            for name in layout.range_names:
                self._create(f"{split}/{name}", (counts[split], *layout.slices_shape), "u1")
            if split in labelled:
                self._create(f"{split}/{LABELS}", (counts[split],), "<i8")

    def append(
        self, split: Split, images: UInt8[np.ndarray, "image height width channel"], labels: Sequence[int] | None
    ) -> None:
        """Write the next images of a split, with their labels where the split has any."""
        assert images.max() < 1 << self._layout.bits
        slices = split_slices(images, self._layout.scale_factor)
        for name, levels in zip(self._layout.range_names, split_bits(slices, self._layout.cuts), strict=True):
            self._write(f"{split}/{name}", self._written[split], levels)
        if labels is not None:
            self._write(f"{split}/{LABELS}", self._written[split], np.array(labels, dtype="<i8"))
        self._written[split] += len(images)

    def finish(self, origin: Origin) -> None:
        """Describe what was written; every split must be complete."""
        assert self._written == self._counts, f"expected {self._counts} images, got {self._written}"
        height, width, channels = self._layout.shape
        content = listing_sha256((name, digest.hexdigest()) for name, digest in sorted(self._digests.items()))
        self._file.attrs.update(asdict(origin))
        self._file.attrs.update({f"num_images_{split}": count for split, count in self._counts.items()})
        self._file.attrs.update({"height": height, "width": width, "channels": channels})
        self._file.attrs.update({"scale_factor": self._layout.scale_factor, "cuts": self._layout.cuts})
        self._file.attrs.update({"bits": self._layout.bits, "digest": content, "layout_version": LAYOUT_VERSION})

    def _create(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        self._file.create_dataset(name, shape, dtype, track_times=False)
        self._digests[name] = hashlib.sha256()

    def _write(self, name: str, start: int, values: np.ndarray) -> None:
        values = np.ascontiguousarray(values)
        self._file[name][start : start + len(values)] = values
        self._digests[name].update(values)


@contextmanager
def create_slices(
    path: Path, layout: Layout, counts: Mapping[Split, int], labelled: set[Split]
) -> Iterator[SliceWriter]:
    """Write a file of slices; nothing appears at `path` before all is written."""
    with _replacing(path) as temporary, h5py.File(temporary, "w") as file:
        yield SliceWriter(file, layout, counts, labelled)


class SliceFile:
    """Reads a file of slices; may be pickled and forked, as it holds no h5py object.

    Raises InputError where the file is missing, truncated or not one of slices. `digest` is the SHA-256 over the
    content of all datasets.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _opened(path, "slices written by preprocess") as file:
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
        # Copied on write, which never happens: torch takes no array that is read-only.
        return torch.from_numpy(np.asarray(np.memmap(self.path, dtype, "c", offset, shape)))


def write_images(
    path: Path,
    images: UInt8[Tensor, "image height width channel"],
    attributes: Mapping[str, Attribute],
    labels: Int64[Tensor, " image"] | None = None,
) -> None:
    """Write images, their labels if any, and what is to be said of them; nothing appears at `path` before all is."""
    with _replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset(IMAGES, data=images.numpy(), track_times=False)
        if labels is not None:
            file.create_dataset(LABELS, data=labels.numpy(), dtype="<i8", track_times=False)
        file.attrs.update(attributes)


def read_images(path: Path) -> tuple[UInt8[Tensor, "image height width channel"], dict[str, Attribute]]:
    """Read what `write_images` wrote; raise InputError where the file is missing or another."""
    with _opened(path, "images") as file:
        images = file[IMAGES][()]
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"images are {images.dtype} {images.shape}, not uint8 [N, H, W, C]")
        return torch.from_numpy(images), _plain(file.attrs)


def read_image_labels(path: Path) -> Int64[Tensor, " image"] | None:
    """Read the labels that `write_images` wrote beside its images; None where there are none."""
    with _opened(path, "images") as file:
        if LABELS not in file:
            return None
        labels = file[LABELS][()]
        if labels.dtype != np.int64 or labels.shape != file[IMAGES].shape[:1]:
            raise ValueError(f"labels are {labels.dtype} {labels.shape}, not int64 [N]")
        return torch.from_numpy(labels)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name in the folder of `path`, which takes its place in the end, or is removed on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path, expected: str) -> Iterator[h5py.File]:
    """Open for reading, without a lock: finished files never change, and some file systems of clusters know none."""
    if not path.is_file():
        raise InputError(f"{path}: expected {expected}, got no such file")
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except NOT_OURS as error:
        raise InputError(f"{path}: expected {expected}, got: {' '.join(str(error).split())}") from error


def _plain(attributes: h5py.AttributeManager) -> dict[str, Any]:
    """Turn numpy's scalars and arrays into Python's."""
    return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in attributes.items()}


def _read_layout(attributes: Mapping[str, Any]) -> Layout:
    shape = attributes["height"], attributes["width"], attributes["channels"]
    return Layout(attributes["scale_factor"], tuple(attributes["cuts"]), shape)
