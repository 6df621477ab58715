"""Reads files of slices, on which stages are trained and evaluated; once a file is open, without the HDF5 library.

Each split and bit range is a dataset [S, S, N, h, w, C], contiguous and uncompressed. The images of a slice lie
together, have their own digest, and are mapped into memory at their offset in the file, which makes random batches an
order of magnitude faster than through h5py.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from spn.config import InputError, StagePlan
from spn.config.tiling import bit_mask
from spn.data.layout import LABELS, LAYOUT_VERSION, SPLITS, Layout, Origin, Split
from spn.data.seal import Extent, open_sealed


@dataclass(frozen=True)
class Mapped:
    """A bit range of some slices, mapped into memory.

    `levels` holds neighbouring slices one after the other, and the slices to read begin at its `rows`. Their indices
    among all slices that are read are `places`, or None if these are all.
    """

    levels: UInt8[Tensor, "row height width channel"]
    rows: Int64[Tensor, " slice"]
    places: Int64[Tensor, " slice"] | None
    shift: int


class SliceFile:
    """Reads a file of slices: all of it, or with `of` only the part that a stage uses.

    `digest` covers images and labels, but not how they are cut. Raises InputError if the file is missing, damaged or
    not a file of slices. The part of a split that is read is compared with its digests at the first read, so opening
    a file for its `digest` is fast.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_sealed(path, "slices written by preprocess") as (file, self._seal):
            version = file.attrs.get("layout_version")
            if version != LAYOUT_VERSION:
                raise ValueError(f"layout version {version}, not {LAYOUT_VERSION}")
            attributes = _plain(file.attrs)
            self._layout = layout = _read_layout(attributes)
            origin = Origin(**{field.name: attributes[field.name] for field in fields(Origin)})
            self.digest: str = attributes["digest"]
            self._counts: dict[Split, int] = {split: attributes[f"num_images_{split}"] for split in SPLITS}
            self._check_datasets(file)
            self._labels = {split: self._read_labels(file, split) for split in SPLITS}
        self.scale_factor, self.cuts, self.bits, self.shape = (
            layout.scale_factor,
            layout.cuts,
            layout.bits,
            layout.shape,
        )
        self.origin, self.notes = origin, self._seal.notes
        self._read([(1 << self.bits) - 1] * self.scale_factor**2)

    def of(self, plan: StagePlan) -> "SliceFile":
        """Return a reader of the part that a stage uses; other slices and bits are 0, and neither checked nor mapped.

        Raises InputError unless the file has the stage's scale factor and bits.
        """
        if (self.scale_factor, self.bits) != (plan.scale_factor, plan.image_bits):
            raise InputError(
                f"{self.path}: expected slices under S={plan.scale_factor} of {plan.image_bits} bits for stage "
                f"{plan.name}, got S={self.scale_factor} and {self.bits} bits"
            )
        reader = copy.copy(self)
        reader._read([mask for line in plan.reads for mask in line])
        return reader

    def num_images(self, split: Split) -> int:
        """Count the images of a split."""
        return self._counts[split]

    def num_bytes(self, split: Split) -> int:
        """Count the bytes of the slices of a split that are read, joined to levels."""
        return self._slice_bytes(split) * len(self.read_slices)

    def slices(
        self, split: Split, indices: Int64[Tensor, " batch"] | Int64[np.ndarray, " batch"]
    ) -> UInt8[Tensor, "batch S S height width channel"]:
        """Read the slices of some images, all bit ranges joined to levels."""
        return self.spread(self.levels(split, indices), self.read_slices)

    def levels(
        self, split: Split, indices: Int64[Tensor, " batch"] | Int64[np.ndarray, " batch"]
    ) -> UInt8[Tensor, "batch slice height width channel"]:
        """Read the slices of some images as `slices` does, but only the `read_slices`."""
        chosen = torch.as_tensor(indices)
        shape = (len(chosen), len(self.read_slices), *self._layout.slice_shape)
        levels = None
        for each in self._map(split):
            rows = (chosen[:, None] + each.rows).flatten()
            part = each.levels.index_select(0, rows).view(len(chosen), len(each.rows), *shape[2:])
            if each.shift:
                part.bitwise_left_shift_(each.shift)
            if each.places is None:
                levels = part if levels is None else levels.bitwise_or_(part)
            else:
                levels = torch.zeros(shape, dtype=torch.uint8) if levels is None else levels
                levels.index_add_(1, each.places, part)  # ranges do not overlap, so adding joins their bits
        assert levels is not None, "a stage that reads nothing"
        return levels

    def spread(
        self, levels: UInt8[Tensor, "batch slice height width channel"], read_slices: Int64[Tensor, " slice"]
    ) -> UInt8[Tensor, "batch S S height width channel"]:
        """Put levels, as `levels` returns them, into the places of their slices; both arguments are on one device."""
        side = self.scale_factor
        if len(read_slices) < side**2:
            shape = (len(levels), side**2, *levels.shape[2:])
            levels = levels.new_zeros(shape).index_copy_(1, read_slices, levels)
        return levels.view(len(levels), side, side, *levels.shape[2:])

    def labels(
        self, split: Split, indices: Int64[Tensor, " batch"] | Int64[np.ndarray, " batch"]
    ) -> Int64[Tensor, " batch"] | None:
        """Read the labels of some images; None if the split has none."""
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

    def _read(self, masks: Sequence[int]) -> None:
        """Choose the part to read: for each slice, in raster order, the bit ranges that have a bit of its mask."""
        self.ranges_read: dict[str, list[int]] = {}
        """For each bit range, by the name of its dataset, the slices in which it is read, in raster order."""
        for name, bits in self._layout.ranges.items():
            if found := [place for place, mask in enumerate(masks) if mask & bit_mask(bits, self.bits)]:
                self.ranges_read[name] = found
        self.read_slices = torch.tensor(sorted(set().union(*self.ranges_read.values())))
        """The slices in which any bit range is read, in raster order."""
        self._mapped: dict[Split, list[Mapped]] = {}

    def _slice_bytes(self, split: Split) -> int:
        height, width, channels = self._layout.slice_shape
        return self._counts[split] * height * width * channels

    def _map(self, split: Split) -> list[Mapped]:
        """Map the part of a split that is read; at the first call, compare it with its digests."""
        if split not in self._mapped:
            for name, slices in self.ranges_read.items():
                self._seal.check(f"{split}/{name}", slices)
            self._mapped[split] = [self._map_range(split, name) for name in self.ranges_read]
        return self._mapped[split]

    def _map_range(self, split: Split, name: str) -> Mapped:
        slices, count = torch.tensor(self.ranges_read[name]), self._counts[split]
        first, last = int(slices[0]), int(slices[-1])
        start, _ = self._seal.extents[f"{split}/{name}"].part(first)
        levels = _map_file(self.path, start, ((last + 1 - first) * count, *self._layout.slice_shape), "u1")
        places = None if len(slices) == len(self.read_slices) else torch.searchsorted(self.read_slices, slices)
        _, end = self._layout.ranges[name]
        return Mapped(levels, (slices - first) * count, places, self.bits - end)

    def _check_datasets(self, file: h5py.File) -> None:
        side = self._layout.scale_factor
        for split in SPLITS:
            shape = (side, side, self._counts[split], *self._layout.slice_shape)
            for name in self._layout.ranges:
                _check_dataset(file[f"{split}/{name}"], self._seal.extents[f"{split}/{name}"], shape, "u1")

    def _read_labels(self, file: h5py.File, split: Split) -> Tensor | None:
        name, shape = f"{split}/{LABELS}", (self._counts[split],)
        if name not in file:
            return None
        _check_dataset(file[name], self._seal.extents[name], shape, "<i8")
        self._seal.check(name)
        return _map_file(self.path, self._seal.extents[name].offset, shape, "<i8")


def _check_dataset(dataset: h5py.Dataset, extent: Extent, shape: tuple[int, ...], dtype: str) -> None:
    """Raise ValueError unless a dataset has this shape and type, and lies where the seal says."""
    if dataset.shape != shape or dataset.dtype != np.dtype(dtype) or dataset.id.get_offset() != extent.offset:
        raise ValueError(f"{dataset.name} is {dataset.dtype} {dataset.shape}, not contiguous {dtype} {shape}")


def _map_file(path: Path, offset: int, shape: tuple[int, ...], dtype: str) -> Tensor:
    # Copy on write, although nothing writes, because torch accepts no read-only array.
    return torch.from_numpy(np.asarray(np.memmap(path, dtype, "c", offset, shape)))


def _plain(attributes: h5py.AttributeManager) -> dict[str, Any]:
    """Turn numpy's scalars and arrays into Python's numbers and lists."""
    return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in attributes.items()}


def _read_layout(attributes: Mapping[str, Any]) -> Layout:
    shape = attributes["height"], attributes["width"], attributes["channels"]
    return Layout(attributes["scale_factor"], tuple(attributes["cuts"]), shape)
