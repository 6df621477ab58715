"""Looks at a folder or zip of pictures, as the data source `folder` will read them."""

import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from spn.config import PICTURE_FORMATS, FolderData, InputError
from spn.data.layout import Split
from spn.data.sources.files import DAMAGED_ZIP
from spn.data.sources.picture import DAMAGED, opened_picture
from spn.data.sources.pictures import decode_pictures, list_pictures
from spn.data.sources.source import Resources, shown
from spn.data.sources.subfolders import by_split, class_folders, class_labels

GREY = {"1", "L", "LA"}
"""Pillow's modes of pictures without colour."""


class Header(NamedTuple):
    """What the beginning of a picture file states."""

    form: str
    side: int
    """The shorter side in pixels."""
    is_grey: bool


@dataclass(frozen=True)
class Survey:
    """What a folder or zip holds: how many pictures of each format, and the usable ones by split and by class."""

    place: Path
    num_pictures: int
    formats: Mapping[str, int]
    smallest_side: int
    is_grey: bool
    """Whether all pictures are grey."""
    bad: Mapping[str, str]
    """The pictures that cannot be used, and why."""
    num_images: Mapping[Split, int]
    """Usable pictures of each split that has a folder; all are `train` if there are no such folders."""
    classes: Mapping[str, int]
    """Usable training pictures by class folder; empty unless every picture lies in one of several."""


def survey(place: Path, size: int, processes: int) -> Survey:
    """Read the header of every picture, then decode all of them as `preprocess` will, to squares of `size` pixels.

    Raises InputError if there are no pictures, if none can be used, or if the sub-folders suit neither splits nor
    classes.
    """
    if not place.exists():
        raise InputError(f"--pictures: expected a folder or zip of pictures, got {place}, which does not exist")
    names = list_pictures(place)
    if not names:
        raise InputError(f"{place}: expected pictures ({', '.join(PICTURE_FORMATS)}), got none")
    by_split(names, place)  # its mistakes are told before decoding
    headers = [header for header in _read_headers(place, names) if header]
    sides = sorted(header.side for header in headers)
    if sides and sides[-1] < size:
        raise InputError(
            f"{place}: expected pictures of at least {size}x{size}, as --size says, got {len(names)}, of which the "
            f"largest has a side of {sides[-1]} pixels"
        )
    section = FolderData(source="folder", name="pictures", bits=8, size=size, channels=3, fit="resize", filter="box")
    pictures = decode_pictures(place, names, section, Resources(processes, progress=True))
    if not pictures.names:
        raise InputError(f"{place}: expected pictures that can be used, got none: {shown(pictures.bad)}")
    usable = pictures.names
    return Survey(
        place=place,
        num_pictures=len(names),
        formats=Counter(header.form for header in headers),
        smallest_side=sides[0],
        is_grey=all(header.is_grey for header in headers),
        bad=pictures.bad,
        num_images={split: len(each) for split, each in by_split(usable, place).items()},
        classes=_count_classes(names, usable, place),
    )


def _read_headers(place: Path, names: tuple[str, ...]) -> Iterator[Header | None]:
    """Read the header of each picture; None for one that has no readable header, which decoding will complain about."""
    with _opener(place) as open_file:
        for name in names:
            try:
                with open_file(name) as file, opened_picture(file, PICTURE_FORMATS.values()) as picture:
                    yield Header(str(picture.format), min(picture.size), picture.mode in GREY)
            except (*DAMAGED, *DAMAGED_ZIP):
                yield None


@contextmanager
def _opener(place: Path) -> Iterator[Callable[[str], IO[bytes]]]:
    if place.is_dir():
        yield lambda name: _open_regular(place / name)
    else:
        with zipfile.ZipFile(place) as archive:
            yield archive.open


def _open_regular(path: Path) -> IO[bytes]:
    if not path.is_file():
        raise OSError(f"{path}: not a file")  # opening a pipe could block for ever
    return path.open("rb")


def _count_classes(names: tuple[str, ...], usable: tuple[str, ...], place: Path) -> dict[str, int]:
    """Count the usable training pictures of each class folder; nothing if folders cannot be classes."""
    folders = class_folders(names, place)
    labels = class_labels(names, place, len(folders)) if folders else {}
    counts = Counter(folders[labels[name]] for name in by_split(usable, place)["train"] if folders)
    return {folder: counts[folder] for folder in folders}
