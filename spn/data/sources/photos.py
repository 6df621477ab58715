"""Crops of the two photographs bundled with scikit-learn; splits are bands of the photographs and share no pixel."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from spn.config import InputError, PhotosData
from spn.data.layout import SPLITS, Split
from spn.data.sources.source import SOURCE_BITS, Item, Pool, Resources, Source, draw_parts

Photo = UInt8[np.ndarray, "_ _ 3"]


class CropPool(Pool):
    """Square crops at given corners of photographs."""

    def __init__(self, photos: list[Photo], corners: list[tuple[int, int, int]], size: int) -> None:
        self.photos = photos
        self.corners = corners
        self.size = size

    @property
    def labelled(self) -> bool:
        """Never."""
        return False

    def __len__(self) -> int:
        return len(self.corners)

    def stream(self, indices: Int64[np.ndarray, " image"]) -> Iterator[Item]:
        """Return the crops at `indices`."""
        for index in indices:
            photo, top, left = self.corners[index]
            yield self.photos[photo][top : top + self.size, left : left + self.size], None


def open_photos(section: PhotosData, root: Path, resources: Resources) -> Source:
    """Cut the bundled photographs into bands and the bands into crops."""
    from sklearn.datasets import load_sample_images  # takes two seconds, so other sources do not import it

    photos = [np.asarray(photo) for photo in load_sample_images().images]
    pools = {split: CropPool(photos, _corners(photos, section, split), section.size) for split in SPLITS}
    return Source(
        release=f"two photographs bundled with scikit-learn, {section.size}x{section.size} crops every "
        f"{section.stride} pixels",
        digest=hashlib.sha256(b"".join(photo.tobytes() for photo in photos)).hexdigest(),
        parts=draw_parts(section, pools, {}, "scikit-learn's photographs"),
        drop_bits=SOURCE_BITS - section.bits,
    )


def _corners(photos: list[Photo], section: PhotosData, split: Split) -> list[tuple[int, int, int]]:
    """List the photograph, top and left of every crop inside the split's bands."""
    corners = []
    for index, photo in enumerate(photos):
        height, width, _ = photo.shape
        start, end = section.band(width, split)
        if min(height, end - start) < section.size:
            raise InputError(
                f"data.size: expected at most the {split} band of {height}x{end - start} pixels, got {section.size}"
            )
        corners += [
            (index, top, left)
            for top in range(0, height - section.size + 1, section.stride)
            for left in range(start, end - section.size + 1, section.stride)
        ]
    return corners
