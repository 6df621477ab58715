"""HDF5 files that can be checked for damage before the HDF5 library reads them.

The HDF5 library may hang or crash on damaged metadata, and has no checksums of contiguous data. So a file begins with
a block that HDF5 leaves to applications, the seal: SHA-256 digests of itself, of every dataset's bytes, and of all
other bytes, HDF5's metadata. These are few, so they are checked whenever a file is opened.
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
from spn.data.digest import listing_sha256
from spn.files import replacing
from spn.notes import SEAL_BYTES, Notes, damaged, read_seal, seal_block

CHUNK = 1 << 20
"""Bytes read at once to be digested."""

NOT_OURS = (LookupError, ValueError, TypeError, AttributeError, OSError, RuntimeError)
"""Exceptions of h5py and numpy for files of another kind."""


@dataclass(frozen=True)
class Extent:
    """Where the bytes of a dataset lie in the file, and their SHA-256."""

    offset: int
    size: int
    sha256: str


class PatientFile(io.FileIO):
    """A file that HDF5 writes to. It defers errors until HDF5 has closed it, which fails on a full disk otherwise."""

    error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write all bytes, or none once there was an error."""
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


class SealedWriter:
    """Writes contiguous datasets, each from its first row to its last, and digests them on the way."""

    def __init__(self, file: h5py.File, content: PatientFile) -> None:
        self.attributes = file.attrs
        self.notes: Notes = {}
        """To be filled before the file is closed; see `spn.notes`."""
        self._file = file
        self._content = content
        self._digests: dict[str, Any] = {}
        self._written: dict[str, int] = {}

    def create(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        """Make a dataset, of which nothing is written yet."""
        self._file.create_dataset(name, shape, dtype, track_times=False)
        self._digests[name] = hashlib.sha256()
        self._written[name] = 0

    def append(self, name: str, values: np.ndarray) -> None:
        """Write the next rows of a dataset."""
        values = np.ascontiguousarray(values, dtype=self._file[name].dtype)
        start = self._written[name]
        self._file[name][start : start + len(values)] = values
        self._content.check()
        self._digests[name].update(values)
        self._written[name] += len(values)

    def digest(self) -> str:
        """Compute the SHA-256 of the content of all datasets."""
        return listing_sha256((name, digest.hexdigest()) for name, digest in sorted(self._digests.items()))

    def extents(self) -> dict[str, Extent]:
        """Find where every dataset lies; all must be complete."""
        assert self._written == {name: len(self._file[name]) for name in self._digests}, self._written
        return {
            name: Extent(dataset.id.get_offset(), prod(dataset.shape) * dataset.dtype.itemsize, digest.hexdigest())
            for name, digest in self._digests.items()
            for dataset in [self._file[name]]
        }


@dataclass(frozen=True)
class Seal:
    """What the seal states: the number of bytes, the SHA-256 of the metadata, and the datasets."""

    path: Path
    size: int
    metadata: str
    extents: dict[str, Extent]
    notes: Notes

    def check(self, names: Iterable[str]) -> None:
        """Raise InputError unless the bytes of some datasets are those that were written."""
        for name in names:
            extent = self.extents[name]
            if _sha256(self.path, [(extent.offset, extent.offset + extent.size)]) != extent.sha256:
                raise damaged(self.path, f"its dataset {name}")


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
    """Open for reading a file whose seal and metadata are whole; the datasets are the caller's to check.

    Without a lock, because finished files never change, and some cluster file systems have no locks. Raises InputError,
    naming the file and what was expected of it, where it is missing, damaged, or of another kind.
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
    metadata = _sha256(path, _outside(extents, size))
    datasets = {name: asdict(extents[name]) for name in extents}
    block = seal_block({"size": size, "metadata": metadata, "datasets": datasets, "notes": notes})
    with path.open("rb+") as file:
        file.write(block)


def _read_seal(path: Path, expected: str) -> Seal:
    """Read the first block; raise InputError unless it, the size of the file and the metadata are as written."""
    content = read_seal(path, expected)
    extents = {name: Extent(**extent) for name, extent in content["datasets"].items()}
    if content["size"] != path.stat().st_size:
        raise damaged(path, f"its size of {path.stat().st_size} bytes, not {content['size']}")
    if content["metadata"] != _sha256(path, _outside(extents, content["size"])):
        raise damaged(path, "its metadata")
    return Seal(path, content["size"], content["metadata"], extents, content["notes"])


def _outside(extents: dict[str, Extent], size: int) -> Iterator[tuple[int, int]]:
    """List the ranges, start and end, of the bytes that belong to no dataset, after the first block."""
    start = SEAL_BYTES
    for extent in sorted(extents.values(), key=lambda extent: extent.offset):
        yield start, extent.offset
        start = extent.offset + extent.size
    yield start, size


def _sha256(path: Path, ranges: Iterable[tuple[int, int]]) -> str:
    """Digest the bytes of some ranges, as far as the file has them."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for start, end in ranges:
            file.seek(start)
            while chunk := file.read(min(CHUNK, end - start)):
                digest.update(chunk)
                start += len(chunk)
    return digest.hexdigest()
