"""HDF5 files that can be checked for damage before the HDF5 library reads them.

The HDF5 library may hang or crash on damaged metadata, and has no checksums of contiguous data. So a file begins with
a *seal*, in the block that HDF5 leaves to applications: SHA-256 digests of itself and of all bytes outside datasets.
These bytes are HDF5's metadata and the table `sha256` with the digests of the datasets; they are checked whenever a
file is opened. A dataset may have several parts with a digest each, so that a reader checks only the parts it reads.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spn.config import InputError
from spn.files import replacing
from spn.notes import SEAL_BYTES, Notes, damaged, read_seal, seal_block

CHUNK = 1 << 20
"""Bytes per read."""

NOT_OURS = (LookupError, ValueError, TypeError, AttributeError, OSError, RuntimeError)
"""Errors of h5py and numpy for files of another kind."""


TABLE = "sha256"
"""The dataset with the digests of the others."""

DIGEST_BYTES = 32


@dataclass(frozen=True)
class Extent:
    """The position of a dataset's bytes in the file, its number of equal parts, and the position of their digests."""

    offset: int
    size: int
    parts: int
    digests: int

    def part(self, number: int) -> tuple[int, int]:
        """Return the start and the end of a part."""
        size = self.size // self.parts
        return self.offset + number * size, self.offset + (number + 1) * size


class PatientFile(io.FileIO):
    """A file for HDF5 to write to, which defers errors until HDF5 has closed it: HDF5 fails to close on a full disk."""

    error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write all bytes, or none after an error."""
        left = memoryview(content)
        try:
            while self.error is None and left:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return len(content)

    def check(self) -> None:
        """Raise the error, if there was one."""
        if self.error is not None:
            raise self.error


@dataclass
class Growing:
    """A dataset that is being written: the axis of its rows, a digest for each part, and the number of rows written."""

    dataset: h5py.Dataset
    axis: int
    digests: list[Any]
    written: int = 0


class SealedWriter:
    """Writes contiguous datasets, each from its first row to its last, and digests them on the way."""

    def __init__(self, file: h5py.File, content: PatientFile) -> None:
        self.attributes = file.attrs
        self.notes: Notes = {}
        """Fill them before the file is closed; see `spn.notes`."""
        self._file = file
        self._content = content
        self._growing: dict[str, Growing] = {}

    def create(self, name: str, shape: tuple[int, ...], dtype: str, rows: int = 0) -> None:
        """Make an empty dataset, whose rows are along axis `rows`.

        Each index of the axes before it is a part with its own digest.
        """
        dataset = self._file.create_dataset(name, shape, dtype, track_times=False)
        self._growing[name] = Growing(dataset, rows, [hashlib.sha256() for _ in range(prod(shape[:rows]))])

    def append(self, name: str, values: np.ndarray) -> None:
        """Write the next rows of a dataset."""
        to = self._growing[name]
        values = np.ascontiguousarray(values, dtype=to.dataset.dtype)
        end = to.written + values.shape[to.axis]
        to.dataset[(*[slice(None)] * to.axis, slice(to.written, end))] = values
        self._content.check()
        for digest, part in zip(to.digests, values.reshape(len(to.digests), -1), strict=True):
            digest.update(part)
        to.written = end

    def extents(self) -> dict[str, Extent]:
        """Write the table of digests, and return the extent of every dataset; all must be complete."""
        digests = b"".join(digest.digest() for each in self._growing.values() for digest in each.digests)
        rows = np.frombuffer(digests, dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        start: int = self._file.create_dataset(TABLE, data=rows, track_times=False).id.get_offset()
        extents = {}
        for name, each in self._growing.items():
            assert each.written == each.dataset.shape[each.axis], f"{name}: {each.written} rows are written"
            extents[name] = Extent(each.dataset.id.get_offset(), each.dataset.nbytes, len(each.digests), start)
            start += DIGEST_BYTES * len(each.digests)
        return extents


@dataclass(frozen=True)
class Seal:
    """The content of a seal: the number of bytes, the SHA-256 of those outside datasets, the extents, the notes."""

    path: Path
    size: int
    metadata: str
    extents: dict[str, Extent]
    notes: Notes

    def check(self, name: str, parts: Iterable[int] | None = None) -> None:
        """Raise InputError unless some parts of a dataset, or all, match their digests."""
        extent = self.extents[name]
        for number in range(extent.parts) if parts is None else parts:
            row = extent.digests + DIGEST_BYTES * number
            expected = b"".join(_read(self.path, [(row, row + DIGEST_BYTES)]))
            if _sha256(self.path, [extent.part(number)]) != expected:
                raise damaged(self.path, f"its dataset {name}")

    def check_all(self) -> None:
        """Raise InputError unless all datasets match their digests."""
        for name in self.extents:
            self.check(name)


@contextmanager
def create_sealed(path: Path) -> Iterator[SealedWriter]:
    """Write a sealed file; nothing appears at `path` before all is written."""
    with replacing(path) as temporary:
        with PatientFile(temporary, "w+") as content:
            with h5py.File(content, "w", userblock_size=SEAL_BYTES) as file:
                writer = SealedWriter(file, content)
                yield writer
                extents = writer.extents()
            content.check()
        write_seal(temporary, extents, writer.notes)


@contextmanager
def open_sealed(path: Path, expected: str) -> Iterator[tuple[h5py.File, Seal]]:
    """Open a file for reading after checking its seal and metadata; the caller checks the datasets.

    Takes no lock, because finished files never change, and some cluster file systems have no locks. Raises InputError,
    naming the file and the `expected` kind, if it is missing, damaged, or of another kind.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected {expected}, got no such file")
    try:
        seal = _read_seal(path, expected)
        with h5py.File(path, "r", locking=False) as file:
            yield file, seal
    except InputError:
        raise
    except NOT_OURS as error:
        raise InputError(f"{path}: expected {expected}, got: {' '.join(str(error).split())}") from error


def write_seal(path: Path, extents: dict[str, Extent], notes: Notes) -> None:
    """Fill the first block of a closed file."""
    size = path.stat().st_size
    metadata = _sha256(path, _outside(extents, size)).hex()
    datasets = {name: asdict(extents[name]) for name in extents}
    block = seal_block({"size": size, "metadata": metadata, "datasets": datasets, "notes": notes})
    with path.open("rb+") as file:
        file.write(block)


def _read_seal(path: Path, expected: str) -> Seal:
    """Read the seal; raise InputError unless it, the size of the file and the metadata are intact."""
    content = read_seal(path, expected)
    extents = {name: Extent(**extent) for name, extent in content["datasets"].items()}
    if content["size"] != path.stat().st_size:
        raise damaged(path, f"its size of {path.stat().st_size} bytes, not {content['size']}")
    if content["metadata"] != _sha256(path, _outside(extents, content["size"])).hex():
        raise damaged(path, "its metadata")
    return Seal(path, content["size"], content["metadata"], extents, content["notes"])


def _outside(extents: dict[str, Extent], size: int) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each range of bytes outside sealed datasets, after the first block."""
    start = SEAL_BYTES
    for extent in sorted(extents.values(), key=lambda extent: extent.offset):
        yield start, extent.offset
        start = extent.offset + extent.size
    yield start, size


def _sha256(path: Path, ranges: Iterable[tuple[int, int]]) -> bytes:
    """Hash the bytes of some ranges, as far as the file has them."""
    digest = hashlib.sha256()
    for chunk in _read(path, ranges):
        digest.update(chunk)
    return digest.digest()


def _read(path: Path, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """Yield the bytes of some ranges, in chunks, as far as the file has them."""
    with path.open("rb", buffering=0) as file:
        for start, end in ranges:
            file.seek(start)
            while chunk := file.read(min(CHUNK, end - start)):
                yield chunk
                start += len(chunk)
