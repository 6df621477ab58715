"""The interface of data sources: images in three splits, streamed in a fixed order."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from spn.config import InputError
from spn.config.data import SourceSection
from spn.data.layout import SPLITS, Split
from spn.data.sources.spool import Kept
from spn.files import printable

Item = tuple[UInt8[np.ndarray, "height width channel"], int | None]
"""One image and its label."""

SOURCE_BITS = 8
"""Depth of the images of every source but the digits."""

NAMES_SHOWN = 20


@dataclass(frozen=True)
class Resources:
    """What a source may use while it is opened: processes, a folder for temporary files, and a progress bar."""

    processes: int = 1
    scratch: Path | None = None
    """Folder of temporary files; None for the system's."""
    progress: bool = False
    kept: Kept | None = None
    """Where decoded pictures are kept, if a killed run shall go on from them."""


class Pool(ABC):
    """Images in the order of their files."""

    @property
    @abstractmethod
    def labelled(self) -> bool:
        """Whether every image has a label."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def stream(self, indices: Int64[np.ndarray, " image"]) -> Iterator[Item]:
        """Yield the images at ascending `indices`, with at most one file of them in memory."""


@dataclass(frozen=True)
class Part:
    """The images of a pool that make up one split."""

    pool: Pool
    indices: Int64[np.ndarray, " image"]


@dataclass(frozen=True)
class Source:
    """A data set: its release, the SHA-256 of its bytes, and its images.

    The `drop_bits` least significant bits of the pools' levels are dropped; `skipped` has the files that were left out,
    and why.
    """

    release: str
    digest: str
    parts: Mapping[Split, Part]
    drop_bits: int
    skipped: Mapping[str, str] = field(default_factory=dict)

    def count(self, split: Split) -> int:
        """Count the images of a split."""
        return len(self.parts[split].indices)

    def labelled(self, split: Split) -> bool:
        """Tell whether the images of a split have labels."""
        return self.parts[split].pool.labelled

    def stream(self, split: Split) -> Iterator[Item]:
        """Yield the images of a split and their labels, in the order of the source's files."""
        part = self.parts[split]
        for image, label in part.pool.stream(part.indices):
            yield image >> self.drop_bits, label


def shown(files: Mapping[str, str]) -> str:
    """List the first few unusable files, each with the reason, and count the rest."""
    more = f" and {len(files) - NAMES_SHOWN} more" if len(files) > NAMES_SHOWN else ""
    text = ", ".join(f"{name} ({reason})" for name, reason in islice(files.items(), NAMES_SHOWN)) + more
    return printable(text)


def draw_parts(
    section: SourceSection, pools: Mapping[Split, Pool], wanted: Mapping[Split, int | None], where: str
) -> dict[Split, Part]:
    """Draw `wanted` images from the training pool for each split without a pool; then apply the limits.

    Raises InputError if a count is missing, superfluous or too large, or a split is empty; `where` names the source.
    """
    order = _permutation(section.split_seed, "train", len(pools["train"]))
    chosen: dict[Split, Part] = {}
    for split in SPLITS[1:]:
        pool, count = pools.get(split), wanted.get(split)
        if pool is not None:
            if count is not None:
                raise InputError(f"data.{split}: expected no count, as {where} has {split} images, got {count}")
            chosen[split] = Part(pool, _permutation(section.split_seed, split, len(pool)))
            continue
        if count is None:
            raise InputError(f"data.{split}: expected a count, as {where} has no {split} images of its own, got none")
        if count >= len(order):
            raise InputError(f"data.{split}: expected fewer than the {len(order)} images left in {where}, got {count}")
        chosen[split] = Part(pools["train"], order[:count])
        order = order[count:]
    chosen["train"] = Part(pools["train"], order)
    for split, part in chosen.items():
        if not len(part.indices):
            raise InputError(f"{where}: expected {split} images, got none")
    return {split: _limited(chosen[split], getattr(section.limit, split)) for split in SPLITS}


def _limited(part: Part, limit: int | None) -> Part:
    return Part(part.pool, np.sort(part.indices[:limit]))


def _permutation(seed: int, split: Split, length: int) -> Int64[np.ndarray, " image"]:
    """Permute by sorting random words: numpy guarantees that these never change, but not its own permutations."""
    words = np.random.Philox(key=np.array([seed, SPLITS.index(split)], dtype=np.uint64)).random_raw(length)
    return np.argsort(words, kind="stable").astype(np.int64)
