"""Files of the pipeline: written whole or not at all, and refused when damaged."""

import glob
import hashlib
import json
import os
import platform
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from spn.config import InputError

SEAL = "sha256"
"""The key of a JSON file for the digest of everything else in it."""

LONGEST = 128
"""Bytes of a name that a temporary name repeats, so that a host, a process and -journal fit into 255 bytes with it."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class WriteError(Exception):
    """A file could not be written, usually because the disk is full; any earlier file is untouched.

    The command line prints one line and exits with status 1; once there is room, the same command continues.
    """


def check_file(path: Path) -> None:
    """Raise InputError if `path` exists but is not a regular file: reading a pipe could block for ever."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError):
        return  # opening the file reports the reason
    if kind != stat.S_IFREG:
        raise InputError(f"{path}: expected a file, got {_KINDS.get(kind, 'something else')}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError inside into a WriteError that names `path`."""
    try:
        yield
    except OSError as error:
        # h5py wraps system errors in long texts of its own.
        reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
        raise WriteError(f"{path}: could not be written: {reason}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; the file replaces `path` at the end, or is removed on an error.

    Missing folders are made. The content is flushed to disk before renaming, so that not even a power failure leaves
    half a file. Several processes may write the same file at once: each uses its own temporary name, and the next
    writer removes those of dead processes on this host. Raises WriteError if the file system refuses.
    """
    temporary = path.with_name(f"{_start(path)}{os.getpid()}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_left(path)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def printable(text: str) -> str:
    """Return a text from outside with escapes for what no output should hold: control characters, and no UTF-8."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` by renaming."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text by renaming."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object and its digest, by renaming."""
    write_text(path, json.dumps(value | {SEAL: json_digest(value)}, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote; raise InputError naming a file that is missing, damaged or edited."""
    check_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: expected a JSON file of the pipeline: {reason}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}")
    seal = value.pop(SEAL, None)
    if seal != json_digest(value):
        raise InputError(
            f"{path}: expected the content that was written, of {SEAL} {seal}, got another: it was damaged or edited; "
            "delete it and run the workflow again"
        )
    return value


def json_digest(value: Any) -> str:
    """Hash a JSON value; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _start(path: Path) -> str:
    """Return how the names of the temporary files of `path` on this host begin; a process follows."""
    name = os.fsencode(path.name)
    return f".{path.name if len(name) <= LONGEST else hashlib.sha256(name).hexdigest()}.{platform.node()}."


def _remove_left(path: Path) -> None:
    """Remove the temporary files of `path` that dead processes on this host left."""
    start = _start(path)
    for left in path.parent.glob(f"{glob.escape(start)}*"):
        process = left.name.removeprefix(start).partition("-")[0]  # the name of SQLite's journal ends in -journal
        if process.isdecimal() and not is_alive(int(process)):
            left.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Tell whether a process on this host is alive."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True
