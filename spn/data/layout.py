"""The splits, and the attributes of a file of slices."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

LABELS = "labels"
"""The name of the dataset of labels."""

LAYOUT_VERSION = 4


@dataclass(frozen=True)
class Layout:
    """How images of `shape` (height, width, channels) are cut: into S x S slices, and into bit ranges at `cuts`.

    Raises ValueError if S does not divide height and width, or the cuts do not rise from 0.
    """

    scale_factor: int
    cuts: tuple[int, ...]
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        height, width, _ = self.shape
        if height % self.scale_factor or width % self.scale_factor:
            raise ValueError(f"scale factor {self.scale_factor} does not divide {height}x{width}")
        if self.cuts[0] != 0 or any(start >= end for start, end in pairwise(self.cuts)):
            raise ValueError(f"cuts {self.cuts} do not rise from 0")

    @property
    def bits(self) -> int:
        """Depth of the levels."""
        return self.cuts[-1]

    @property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """The bit ranges, by the names of their datasets."""
        return {f"bits_{start}_{end}": (start, end) for start, end in pairwise(self.cuts)}

    @property
    def slice_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a slice."""
        height, width, channels = self.shape
        return height // self.scale_factor, width // self.scale_factor, channels


@dataclass(frozen=True)
class Origin:
    """The origin of a file's images.

    `limit` is the section of that name, as JSON; `skipped` counts the source's files that were left out, and
    `duplicates` the test images that equal a training or validation image.
    """

    dataset: str
    source: str
    release: str
    source_digest: str
    limit: str
    skipped: int
    duplicates: int
