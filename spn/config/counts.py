"""Counts the images in the splits of a source, as far as possible without opening a file."""

from collections.abc import Mapping

from spn.config.data import Cifar10Data, DataSection, DigitsData, MnistData, PhotosData
from spn.config.errors import InputError

PHOTO_SHAPE = 427, 640
"""Height and width of the two photographs bundled with scikit-learn."""

NUM_PHOTOS = 2

NUM_POOLED = {"digits": 1797, "cifar10": 50_000, "mnist": 60_000}
"""Images from which a source's splits are drawn; the official counts."""

NUM_TEST = {"cifar10": 10_000, "mnist": 10_000}
"""Sizes of official test splits."""


def split_counts(data: DataSection) -> Mapping[str, int]:
    """Count the images of each split after `limit`; a split of unknown size is left out."""
    limits = data.limit.model_dump(exclude_none=True)
    return {split: min(count, limits.get(split, count)) for split, count in _unlimited(data).items()}


def check_counts(data: DataSection) -> None:
    """Raise InputError, naming the dotted key, if a split or limit asks for more images than there are."""
    if isinstance(data, PhotosData):
        _check_bands(data)
    left = NUM_POOLED.get(data.source)
    for split in ("validation", "test"):
        count = getattr(data, split, None)
        if left is None or count is None:
            continue
        if count >= left:
            raise InputError(f"data.{split}: expected fewer than the {left} images left in {data.source}, got {count}")
        left -= count
    for split, count in _unlimited(data).items():
        limit = getattr(data.limit, split)
        if limit is not None and limit > count:
            raise InputError(f"data.limit.{split}: expected at most the {count} images of the split, got {limit}")


def _unlimited(data: DataSection) -> dict[str, int]:
    if isinstance(data, PhotosData):
        return {split: _num_crops(data, split) for split in ("train", "validation", "test")}
    drawn = {
        "validation": getattr(data, "validation", None),
        "test": NUM_TEST.get(data.source, getattr(data, "test", None)),
    }
    counts = {split: count for split, count in drawn.items() if count is not None}
    if isinstance(data, Cifar10Data | MnistData):
        counts["train"] = NUM_POOLED[data.source] - data.validation
    if isinstance(data, DigitsData):
        counts["train"] = NUM_POOLED[data.source] - data.validation - data.test
    return counts


def _num_crops(data: PhotosData, split: str) -> int:
    height, width = PHOTO_SHAPE
    start, end = data.band(width, split)
    rows, columns = ((side - data.size) // data.stride + 1 for side in (height, end - start))
    return NUM_PHOTOS * rows * columns


def _check_bands(data: PhotosData) -> None:
    height, width = PHOTO_SHAPE
    for split in ("train", "validation", "test"):
        start, end = data.band(width, split)
        if min(height, end - start) < data.size:
            raise InputError(
                f"data.size: expected at most the {split} band of {height}x{end - start} pixels, got {data.size}"
            )
