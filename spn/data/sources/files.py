"""Files of a source: their digest, reading from them, and the line that tells a user how to get one."""

import hashlib
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from spn.config import InputError


@runtime_checkable
class Readable(Protocol):
    """An opened file, compressed or not."""

    def read(self, size: int, /) -> bytes:
        """Read `size` bytes, or fewer at the end."""
        ...

    def seek(self, position: int, /) -> int:
        """Go to a position."""
        ...


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listing_sha256(digests: Iterable[tuple[str, str]]) -> str:
    """Compute the SHA-256 of what `sha256sum` prints for files of these (name, SHA-256), in this order."""
    listing = hashlib.sha256()
    for name, digest in digests:
        listing.update(f"{digest}  {name}\n".encode())
    return listing.hexdigest()


def files_sha256(paths: Iterable[Path]) -> str:
    """Compute the SHA-256 of what `sha256sum` prints for the files, named as in their folder."""
    return listing_sha256((path.name, file_sha256(path)) for path in paths)


def read_exactly(file: Readable, size: int, path: Path, position: int | None = None) -> bytes:
    """Read `size` bytes of the opened `path`, from `position` where it is given.

    Raises InputError where the file is damaged or ends early.
    """
    try:
        if position is not None:
            file.seek(position)
        content = file.read(size)
    except (EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: expected an intact file, got: {error}") from error
    if len(content) < size:
        raise InputError(f"{path}: expected {size} more bytes, got {len(content)}: the file is truncated")
    return content


def missing_file(path: Path, expected: str, url: str) -> InputError:
    """Say which file is expected where, and the command that gets it."""
    make_folder = "" if path.parent.is_dir() else f"mkdir -p {path.parent} && "
    command = f"{make_folder}dvc import-url {url} {path}"
    return InputError(f"{path}: expected {expected}, got no such file; get it by: {command}")
