"""MNIST (LeCun et al. 1998) in its four official idx files."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from spn.config import InputError, MnistData
from spn.data.digest import files_sha256
from spn.data.sources.files import check_end, missing_file, read_exactly
from spn.data.sources.source import SOURCE_BITS, Item, Pool, Resources, Source, draw_parts

URL = "https://storage.googleapis.com/cvdf-datasets/mnist"
SIDE = 28
IMAGES_MAGIC = 0x00000803
LABELS_MAGIC = 0x00000801
MAX_IMAGES = 60_000
BLOCK = 1000
"""Images per read."""


class IdxPool(Pool):
    """The images of one pair of idx files, read one after the other."""

    def __init__(self, images: Path, labels: Path) -> None:
        self.images = images
        self.labels = _read_labels(labels)
        with gzip.open(images) as file:
            count, *sides = _read_header(file, images, IMAGES_MAGIC, 3)
        if sides != [SIDE, SIDE]:
            raise InputError(f"{images}: expected {SIDE}x{SIDE} images, got {sides[0]}x{sides[1]}")
        if count != len(self.labels):
            raise InputError(
                f"{images}: expected as many images as {labels} has labels, {len(self.labels)}, got {count}"
            )

    @property
    def labelled(self) -> bool:
        """Always."""
        return True

    def __len__(self) -> int:
        return len(self.labels)

    def stream(self, indices: Int64[np.ndarray, " image"]) -> Iterator[Item]:
        """Return the images at `indices`."""
        with gzip.open(self.images) as file:
            _read_header(file, self.images, IMAGES_MAGIC, 3)
            for first in range(0, int(indices[-1]) + 1, BLOCK):
                count = min(BLOCK, len(self) - first)
                content = read_exactly(file, count * SIDE * SIDE, self.images)
                block = np.frombuffer(content, dtype=np.uint8).reshape(count, SIDE, SIDE, 1)
                for index in indices[(indices >= first) & (indices < first + count)].tolist():
                    yield block[index - first], int(self.labels[index])
            if first + count == len(self):
                check_end(file, self.images)


def open_mnist(section: MnistData, root: Path, resources: Resources) -> Source:
    """Open the four files."""
    paths = [root / place for place in section.places]
    for path in paths:
        if not path.is_file():
            raise missing_file(path, "an official MNIST file", f"{URL}/{path.name}")
    train, test = IdxPool(paths[0], paths[1]), IdxPool(paths[2], paths[3])
    return Source(
        release=f"MNIST, official idx files, {len(train)} train and {len(test)} test images",
        digest=files_sha256(paths),
        parts=draw_parts(
            section, {"train": train, "test": test}, {"validation": section.validation}, str(paths[0].parent)
        ),
        drop_bits=SOURCE_BITS - section.bits,
    )


def _read_header(file: gzip.GzipFile, path: Path, magic: int, num_sizes: int) -> list[int]:
    """Read the magic number and the sizes, all big-endian."""
    numbers = np.frombuffer(read_exactly(file, 4 * (1 + num_sizes), path), dtype=">u4").tolist()
    if numbers[0] != magic:
        raise InputError(f"{path}: expected an idx file of magic number {magic}, got {numbers[0]}")
    if numbers[1] > MAX_IMAGES:
        raise InputError(f"{path}: expected at most {MAX_IMAGES} images, got {numbers[1]}")
    return numbers[1:]


def _read_labels(path: Path) -> Int64[np.ndarray, " image"]:
    with gzip.open(path) as file:
        (count,) = _read_header(file, path, LABELS_MAGIC, 1)
        labels = np.frombuffer(read_exactly(file, count, path), dtype=np.uint8)
        check_end(file, path)
    if labels.max(initial=0) > 9:
        raise InputError(f"{path}: expected labels from 0 to 9, got {labels.max()}")
    return labels.astype(np.int64)
