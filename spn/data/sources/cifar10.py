"""CIFAR-10 (Krizhevsky 2009) in its official Python files, as the archive or the unpacked folder.

Every batch file is parsed once; its images are kept in a temporary file and mapped into memory from there.
"""

import gzip
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from jaxtyping import Int64, UInt8

from spn.config import Cifar10Data, InputError
from spn.data.digest import file_sha256, files_sha256
from spn.data.sources.cifar_pickle import parse_batch
from spn.data.sources.files import missing_file
from spn.data.sources.source import SOURCE_BITS, Item, Pool, Resources, Source, draw_parts
from spn.files import writing

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"
"""In the archive."""
TRAIN = tuple(f"data_batch_{index}" for index in range(1, 6))
TEST = ("test_batch",)

MAX_BATCH_BYTES = 1 << 26
"""Twice the size of an official batch file."""
MAX_ARCHIVE_BYTES = 1 << 28
"""More than the unpacked official archive."""
MAX_HEADER_BYTES = 1 << 16
"""More than the headers before a member of the archive."""
MAX_MEMBERS = 100
"""More than the official archive has."""

DAMAGED = (tarfile.TarError, EOFError, zlib.error, OSError, LookupError, ValueError, RecursionError)
"""Errors of gzip and tarfile for archives that are incomplete or of another kind."""


@dataclass(frozen=True)
class Batch:
    """The images and labels of one batch file."""

    images: UInt8[np.ndarray, "image 32 32 3"]
    labels: Int64[np.ndarray, " image"]


class BatchPool(Pool):
    """The images of some batches, one after the other."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    @property
    def labelled(self) -> bool:
        """Always."""
        return True

    def __len__(self) -> int:
        return sum(len(batch.labels) for batch in self.batches)

    def stream(self, indices: Int64[np.ndarray, " image"]) -> Iterator[Item]:
        """Return the images at `indices`."""
        first = 0
        for batch in self.batches:
            inside = (indices >= first) & (indices < first + len(batch.labels))
            for index in (indices[inside] - first).tolist():
                yield batch.images[index], int(batch.labels[index])
            first += len(batch.labels)


def open_cifar10(section: Cifar10Data, root: Path, resources: Resources) -> Source:
    """Open the archive, or the folder if there is no archive."""
    archive, folder = (root / place for place in section.places)
    if archive.is_file():
        where, digest, files = archive, file_sha256(archive), _archive_files(archive)
    elif folder.is_dir():
        where, files = folder, _folder_files(folder)
        digest = files_sha256(path for path in (folder / name for name in TRAIN + TEST) if path.is_file())
    else:
        raise missing_file(archive, f"the official CIFAR-10 archive, or unpacked as {folder}/", URL)
    batches = _spool(files, where)
    train, test = (BatchPool([batches[name] for name in names]) for names in (TRAIN, TEST))
    return Source(
        release=f"CIFAR-10, official python files, {len(train)} train and {len(test)} test images",
        digest=digest,
        parts=draw_parts(section, {"train": train, "test": test}, {"validation": section.validation}, str(where)),
        drop_bits=SOURCE_BITS - section.bits,
    )


def _spool(files: Iterable[tuple[str, bytes]], where: Path) -> dict[str, Batch]:
    """Parse the batch files, in any order; their temporary file vanishes with the last array that maps it."""
    batches = {}
    with tempfile.TemporaryFile() as spool:
        for name, content in files:
            images, labels = parse_batch(content, f"{where}/{name}")
            start = spool.tell()
            with writing(Path(tempfile.gettempdir())):
                spool.write(np.ascontiguousarray(images).data)
                spool.flush()
            batches[name] = Batch(np.asarray(np.memmap(spool, np.uint8, "r", start, images.shape)), labels)
    for name in TRAIN + TEST:
        if name not in batches:
            raise InputError(f"{where}: expected the official batch {name}, got none")
    return batches


def _folder_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Read the batch files of a folder; a missing one is reported later."""
    for path in (folder / name for name in TRAIN + TEST):
        if path.is_file():
            _check_size(path.stat().st_size, str(path))
            yield path.name, path.read_bytes()


def _archive_files(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Read the batch files of an archive, selected by name, in one pass; nothing is extracted."""
    names = {f"{FOLDER}/{name}": name for name in TRAIN + TEST}
    try:
        with gzip.open(archive) as content:
            for member in _members(content, archive):
                if member.name in names and member.isreg():
                    _check_size(member.size, f"{archive}/{member.name}")
                    content.seek(member.offset_data)
                    yield names[member.name], content.read(member.size)
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(f"{archive}: expected an intact tar.gz archive, got: {error}") from error


def _members(content: gzip.GzipFile, archive: Path) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=cast("IO[bytes]", Headers(content, archive)), mode="r:") as tar:
        for place, member in enumerate(tar):
            if place == MAX_MEMBERS:
                raise InputError(f"{archive}: expected at most {MAX_MEMBERS} files, got more")
            yield member


class Headers:
    """The archive as tarfile reads it: headers only, which state lengths of themselves and of members.

    Refuses lengths beyond reason.
    """

    def __init__(self, content: gzip.GzipFile, archive: Path) -> None:
        self.content = content
        self.archive = archive
        self.tell = content.tell

    def read(self, size: int) -> bytes:
        """Read a header, or a part of one."""
        _check_size(size, f"{self.archive}: a header", MAX_HEADER_BYTES)
        return self.content.read(size)

    def seek(self, position: int) -> int:
        """Go to the next header."""
        _check_size(position, str(self.archive), MAX_ARCHIVE_BYTES)
        return self.content.seek(position)


def _check_size(size: int, where: str, limit: int = MAX_BATCH_BYTES) -> None:
    if size > limit:
        raise InputError(f"{where}: expected at most {limit} bytes, got {size}")
