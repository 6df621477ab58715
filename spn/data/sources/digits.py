"""The handwritten digits bundled with scikit-learn (UCI ML, test part): 8x8, 17 levels, labels 0 to 9."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from spn.config import DigitsData
from spn.data.sources.source import Item, Pool, Resources, Source, draw_parts


class DigitsPool(Pool):
    """Images and labels held in memory."""

    def __init__(self, images: UInt8[np.ndarray, "image 8 8 1"], labels: Int64[np.ndarray, " image"]) -> None:
        self.images = images
        self.labels = labels

    @property
    def labelled(self) -> bool:
        """Always."""
        return True

    def __len__(self) -> int:
        return len(self.images)

    def stream(self, indices: Int64[np.ndarray, " image"]) -> Iterator[Item]:
        """Return the digits at `indices`."""
        for index in indices:
            yield self.images[index], int(self.labels[index])


def open_digits(section: DigitsData, root: Path, resources: Resources) -> Source:
    """Open the bundled digits; their levels 0 to 16 are kept unchanged."""
    from sklearn.datasets import load_digits  # takes two seconds, so other sources do not import it

    bundle = load_digits()
    pool = DigitsPool(bundle.images.astype(np.uint8)[..., None], bundle.target.astype(np.int64))
    return Source(
        release=f"handwritten digits bundled with scikit-learn, {len(pool)} images",
        digest=hashlib.sha256(pool.images.tobytes() + pool.labels.astype("<i8").tobytes()).hexdigest(),
        parts=draw_parts(
            section,
            {"train": pool},
            {"validation": section.validation, "test": section.test},
            "scikit-learn's digits",
        ),
        drop_bits=0,
    )
