"""A folder or zip of images; `spn.data.sources.picture` turns each into an image of levels."""

from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from spn.config import PICTURE_FORMATS, FolderData, InputError
from spn.data.digest import listing_sha256
from spn.data.layout import Split
from spn.data.sources.files import missing_file
from spn.data.sources.pictures import Pictures, decode_pictures, list_pictures
from spn.data.sources.source import SOURCE_BITS, Item, Pool, Resources, Source, draw_parts, shown
from spn.data.sources.subfolders import by_split, class_labels


class PicturePool(Pool):
    """The decoded pictures with the indices `chosen`; `labels` has the label of each, or is None.

    Both are arrays, because lists of millions of numbers take four times the memory.
    """

    def __init__(
        self,
        images: UInt8[np.ndarray, "_ size size channel"],
        chosen: Int64[np.ndarray, " picture"],
        labels: Int64[np.ndarray, " picture"] | None,
    ) -> None:
        self.images = images
        self.chosen = chosen
        self.labels = labels

    @property
    def labelled(self) -> bool:
        """Whether folders are classes."""
        return self.labels is not None

    def __len__(self) -> int:
        return len(self.chosen)

    def stream(self, indices: Int64[np.ndarray, " image"]) -> Iterator[Item]:
        """Yield the pictures at `indices`."""
        for index in indices:
            yield self.images[self.chosen[index]], None if self.labels is None else int(self.labels[index])


def open_folder(section: FolderData, root: Path, resources: Resources) -> Source:
    """Open `{name}/` or `{name}.zip` and decode every picture, so that all bad ones are known beforehand."""
    place = _find(section, root)
    names = list_pictures(place)
    if not names:
        raise InputError(f"{place}: expected images ({', '.join(PICTURE_FORMATS)}), got none")
    # Labels of all pictures, including bad ones, so that a class keeps its number and mistakes are reported before
    # hours of decoding.
    labels = class_labels(names, place, section.num_classes) if section.num_classes else None
    pictures = decode_pictures(place, names, section, resources)
    if pictures.bad and section.unreadable == "refuse":
        raise InputError(_complaint(place, len(names), section, pictures.bad))
    rule = f"resized by {section.filter} from the largest centre square" if section.fit == "resize" else "centre crop"
    count = len(pictures.names)
    return Source(
        release=f"{section.release or section.name}, {count} images, {section.size}x{section.size} {rule}",
        digest=_digest(pictures, section),
        parts=draw_parts(
            section,
            _pools(pictures, place, labels),
            {"validation": section.validation, "test": section.test},
            str(place),
        ),
        drop_bits=SOURCE_BITS - section.bits,
        skipped=pictures.bad,
    )


def _find(section: FolderData, root: Path) -> Path:
    folder, archive = (root / place for place in section.places)
    if folder.is_dir() and archive.is_file():
        raise InputError(f"{folder}: expected either a folder or {archive}, got both")
    if not folder.is_dir() and not archive.is_file():
        raise missing_file(archive, f"a zip of images, or the folder {folder}/", "URL")
    return folder if folder.is_dir() else archive


def _pools(pictures: Pictures, place: Path, labels: Mapping[str, int] | None) -> dict[Split, Pool]:
    at = {name: number for number, name in enumerate(pictures.names)}
    return {
        split: PicturePool(
            pictures.images,
            _integers(at[name] for name in names),
            None if labels is None else _integers(labels[name] for name in names),
        )
        for split, names in by_split(pictures.names, place).items()
    }


def _integers(values: Iterable[int]) -> Int64[np.ndarray, " picture"]:
    return np.fromiter(values, np.int64)


def _digest(pictures: Pictures, section: FolderData) -> str:
    """Hash the usable files and, if folders are classes, the names of the others, because they count as classes."""
    named = dict.fromkeys(pictures.bad, "") if section.num_classes else {}
    return listing_sha256(merge(pictures.digests(), sorted(named.items())))


def _complaint(place: Path, count: int, section: FolderData, bad: dict[str, str]) -> str:
    return (
        f"{place}: expected intact images of at least {section.size}x{section.size}, got {len(bad)} of "
        f"{count} that are not (data.unreadable: skip leaves them out): {shown(bad)}"
    )
