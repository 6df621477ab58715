"""Reads files of a source, and makes the message that tells a user how to get one."""

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Protocol, runtime_checkable

from spn.config import InputError

DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, LookupError, struct.error)
"""Errors of zipfile for archives that are incomplete, encrypted, or of another kind."""

BOUNDED_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Accepted compression methods of zip members; zipfile decompresses others all at once, of any size."""

DEFLATE_RATIO = 1032
"""Maximum expansion of one byte by deflate."""


@runtime_checkable
class Readable(Protocol):
    """An opened file, compressed or not."""

    def read(self, size: int, /) -> bytes:
        """Read `size` bytes, or fewer at the end."""
        ...

    def seek(self, position: int, /) -> int:
        """Go to a position."""
        ...


def read_exactly(file: Readable, size: int, path: Path, position: int | None = None) -> bytes:
    """Read `size` bytes of the opened `path`, from `position` if given.

    Raises InputError if the file is damaged or ends early.
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


def check_end(file: Readable, path: Path) -> None:
    """Raise InputError if there are more bytes; at its end, a gzip file checks its checksum."""
    try:
        more = file.read(1)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: expected an intact file, got: {error}") from error
    if more:
        raise InputError(f"{path}: expected no bytes beyond those that its header states, got some")


def missing_file(path: Path, expected: str, url: str) -> InputError:
    """Return the error for a missing file, with the command that downloads it."""
    make_folder = "" if path.parent.is_dir() else f"mkdir -p {path.parent} && "
    command = f"{make_folder}dvc import-url {url} {path}"
    return InputError(f"{path}: expected {expected}, got no such file; get it by: {command}")
