"""Writes files of slices. They contain no times, so that they are bit-identical when written again."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from spn.data.layout import LABELS, LAYOUT_VERSION, Layout, Origin, Split
from spn.data.seal import SealedWriter, create_sealed
from spn.files import json_digest
from spn.image import split_bits, split_slices
from spn.notes import Notes


class SliceWriter:
    """Appends images, split by split, to datasets of their final size."""

    def __init__(self, file: SealedWriter, layout: Layout, counts: Mapping[Split, int], labelled: set[Split]) -> None:
        self._file = file
        self._layout = layout
        self._counts = dict(counts)
        self._content = ContentDigest(layout, self._counts, labelled)
        side = layout.scale_factor
        for split, count in self._counts.items():
            for name in layout.ranges:
                file.create(f"{split}/{name}", (side, side, count, *layout.slice_shape), "u1", rows=2)
            if split in labelled:
                file.create(f"{split}/{LABELS}", (count,), "<i8")

    def append(
        self, split: Split, images: UInt8[np.ndarray, "image height width channel"], labels: Sequence[int] | None
    ) -> None:
        """Write the next images of a split, with their labels if the split has any."""
        assert images.max() < 1 << self._layout.bits
        slices = np.moveaxis(split_slices(images, self._layout.scale_factor), 0, 2)
        for name, levels in zip(self._layout.ranges, split_bits(slices, self._layout.cuts), strict=True):
            self._file.append(f"{split}/{name}", levels)
        if labels is not None:
            self._file.append(f"{split}/{LABELS}", np.array(labels, dtype="<i8"))
        self._content.update(split, images, labels)

    def finish(self, origin: Origin, notes: Notes | None = None, digest: str | None = None) -> None:
        """Write the attributes and notes, once every split is complete.

        `digest` is that of the images of which these are the codes; by default, that of these images.
        """
        height, width, channels = self._layout.shape
        attributes = self._file.attributes
        attributes.update(asdict(origin))
        attributes.update({f"num_images_{split}": count for split, count in self._counts.items()})
        attributes.update({"height": height, "width": width, "channels": channels})
        attributes.update({"scale_factor": self._layout.scale_factor, "cuts": self._layout.cuts})
        attributes.update({"bits": self._layout.bits, "digest": digest or self._content.digest()})
        attributes.update({"layout_version": LAYOUT_VERSION})
        self._file.notes |= (notes or {}) | {"digest": attributes["digest"], "source_digest": origin.source_digest}


class ContentDigest:
    """The digest of images and labels, but not of their cuts, so that all files of a data set have the same digest."""

    def __init__(self, layout: Layout, counts: Mapping[Split, int], labelled: set[Split]) -> None:
        self._about = {"bits": layout.bits, "shape": layout.shape, "num_images": dict(counts)}
        self._levels = {split: hashlib.sha256() for split in counts}
        self._labels = {split: hashlib.sha256() for split in labelled}

    def update(
        self, split: Split, images: UInt8[np.ndarray, "image height width channel"], labels: Sequence[int] | None
    ) -> None:
        """Add the next images of a split."""
        self._levels[split].update(np.ascontiguousarray(images).data)
        if labels is not None:
            self._labels[split].update(np.array(labels, dtype="<i8").data)

    def digest(self) -> str:
        """Hash shapes, levels [N, H, W, C] and labels of all splits."""
        parts = {"levels": self._levels, "labels": self._labels}
        hashed = {name: {split: each.hexdigest() for split, each in part.items()} for name, part in parts.items()}
        return json_digest(self._about | hashed)


@contextmanager
def create_slices(
    path: Path, layout: Layout, counts: Mapping[Split, int], labelled: set[Split]
) -> Iterator[SliceWriter]:
    """Write a file of slices; nothing appears at `path` before all is written."""
    with create_sealed(path) as file:
        yield SliceWriter(file, layout, counts, labelled)
