"""A folder or zip of images; see `spn.data.sources.picture` for what is made of each."""

import hashlib
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int64
from tqdm import tqdm

from spn.config import PICTURE_FORMATS, FolderData, InputError
from spn.data.digest import listing_sha256
from spn.data.sources.files import BOUNDED_METHODS, DAMAGED_ZIP, missing_file
from spn.data.sources.picture import PictureError, decode_picture
from spn.data.sources.source import SOURCE_BITS, Item, Pool, Source, draw_parts, shown
from spn.data.sources.subfolders import by_split, class_labels

MAX_FILE_BYTES = 1 << 28
"""No picture file of this size is meant; a zip may state any."""


@dataclass(frozen=True)
class Pictures:
    """The image files of a folder or zip: their names, sorted, and how to read one."""

    path: Path
    names: tuple[str, ...]
    read: Callable[[str], bytes]


@dataclass(frozen=True)
class Inspection:
    """Which pictures can be used, why the others cannot, and the digest of the former.

    Where folders are classes, the names of the others are in the digest too: their folders are counted.
    """

    good: tuple[str, ...]
    bad: dict[str, str]
    digest: str


class PicturePool(Pool):
    """Pictures, decoded one after the other; `labels` has that of each name, or is None."""

    def __init__(
        self, pictures: Pictures, names: list[str], section: FolderData, labels: Mapping[str, int] | None
    ) -> None:
        self.pictures = pictures
        self.names = names
        self.section = section
        self.labels = labels

    @property
    def labelled(self) -> bool:
        """Whether folders are classes."""
        return self.labels is not None

    def __len__(self) -> int:
        return len(self.names)

    def stream(self, indices: Int64[np.ndarray, " image"]) -> Iterator[Item]:
        """Return the pictures at `indices`."""
        for index in indices:
            name = self.names[index]
            try:
                image = decode_picture(self.pictures.read(name), self.section)
            except PictureError as error:
                raise InputError(f"{self.pictures.path}: {name} changed while it was read: {error}") from error
            yield image, None if self.labels is None else self.labels[name]


def open_folder(section: FolderData, root: Path, progress: bool) -> Source:
    """Open `{name}/` or `{name}.zip` and decode every picture once, so that all the bad ones are known beforehand."""
    pictures = _find(section, root)
    # Of all pictures, bad ones too: a class keeps its number, and a mistake is reported before hours of decoding.
    labels = class_labels(pictures.names, pictures.path, section.num_classes) if section.num_classes else None
    found = _inspect(pictures, section, progress)
    if found.bad and section.unreadable == "refuse":
        raise InputError(_complaint(pictures, section, found.bad))
    pools = {
        split: PicturePool(pictures, names, section, labels)
        for split, names in by_split(found.good, pictures.path).items()
    }
    rule = f"resized by {section.filter} from the largest centre square" if section.fit == "resize" else "centre crop"
    return Source(
        release=f"{section.release or section.name}, {len(found.good)} images, {section.size}x{section.size} {rule}",
        digest=found.digest,
        parts=draw_parts(section, pools, {"validation": section.validation, "test": section.test}, str(pictures.path)),
        drop_bits=SOURCE_BITS - section.bits,
        skipped=found.bad,
    )


def _find(section: FolderData, root: Path) -> Pictures:
    folder, archive = (root / place for place in section.places)
    if folder.is_dir() and archive.is_file():
        raise InputError(f"{folder}: expected either a folder or {archive}, got both")
    if not folder.is_dir() and not archive.is_file():
        raise missing_file(archive, f"a zip of images, or the folder {folder}/", "URL")
    pictures = _open_directory(folder) if folder.is_dir() else _open_zip(archive)
    if not pictures.names:
        raise InputError(f"{pictures.path}: expected images ({', '.join(PICTURE_FORMATS)}), got none")
    return pictures


def _open_directory(folder: Path) -> Pictures:
    def read(name: str) -> bytes:
        try:
            state = (folder / name).stat()
            if not stat.S_ISREG(state.st_mode):
                raise PictureError("not a file")  # reading a pipe could wait for ever
            if state.st_size > MAX_FILE_BYTES:
                raise PictureError(f"more than {MAX_FILE_BYTES} bytes")
            return (folder / name).read_bytes()
        except OSError as error:
            raise PictureError(str(error.strerror)) from error

    return Pictures(folder, _picture_names(path.relative_to(folder).as_posix() for path in folder.rglob("*")), read)


def _open_zip(path: Path) -> Pictures:
    """Open an archive; members are read into memory, each up to the size it states, and never extracted."""
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGED_ZIP as error:
        raise InputError(f"{path}: expected a zip archive, got: {' '.join(str(error).split())}") from error
    for name in map(PurePosixPath, archive.namelist()):
        if name.is_absolute() or ".." in name.parts:
            raise InputError(f"{path}: expected names inside the archive, got {name}")
    if sum(member.compress_size for member in archive.infolist()) > path.stat().st_size:
        raise InputError(f"{path}: expected members that lie side by side, got some that overlap")

    def read(name: str) -> bytes:
        member = archive.getinfo(name)
        if member.file_size > MAX_FILE_BYTES:
            raise PictureError(f"more than {MAX_FILE_BYTES} bytes")
        if member.compress_type not in BOUNDED_METHODS:
            raise PictureError(f"compressed by method {member.compress_type}, not by deflate")
        try:
            with archive.open(member) as file:
                # By `read` without a size, a member that states less than it holds would take any memory.
                return file.read(member.file_size)
        except DAMAGED_ZIP as error:
            raise PictureError(" ".join(str(error).split())[:60]) from error

    return Pictures(path, _picture_names(archive.namelist()), read)


def _picture_names(names: Iterable[str]) -> tuple[str, ...]:
    """Keep the names of images, sorted; hidden files and what macOS adds to archives are not images."""
    return tuple(sorted(name for name in names if _is_picture(PurePosixPath(name))))


def _is_picture(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in PICTURE_FORMATS and not hidden


def _inspect(pictures: Pictures, section: FolderData, progress: bool) -> Inspection:
    digests: dict[str, str] = {}
    bad: dict[str, str] = {}
    for name in tqdm(pictures.names, desc=f"check {pictures.path.name}", unit="image", disable=not progress):
        try:
            content = pictures.read(name)
            decode_picture(content, section)
        except PictureError as error:
            bad[name] = str(error)
        else:
            digests[name] = hashlib.sha256(content).hexdigest()
    named = dict.fromkeys(bad, "") if section.num_classes else {}
    return Inspection(tuple(digests), bad, listing_sha256(sorted((digests | named).items())))


def _complaint(pictures: Pictures, section: FolderData, bad: dict[str, str]) -> str:
    return (
        f"{pictures.path}: expected intact images of at least {section.size}x{section.size}, got {len(bad)} of "
        f"{len(pictures.names)} that are not (data.unreadable: skip leaves them out): {shown(bad)}"
    )
