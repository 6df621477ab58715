"""Decoded pictures in a file, which needs no memory: unnamed, or kept, so that a killed run goes on where it was.

An unnamed file vanishes with the process. A kept one lies under `runs/`, with a note beside it about once a minute: how
many pictures are done, what they were decoded from, and the SHA-256 of their records. A run takes up what such a note
describes, and writes what follows again, so a torn end does not matter. Runs shorter than a minute leave no note.
"""

import hashlib
import io
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from jaxtyping import UInt8

from spn.config import InputError
from spn.files import read_json, write_json, writing

NOTE_SECONDS = 60.0
"""Time between two notes."""

CHUNK = 1 << 20
"""Bytes per read."""

Levels: TypeAlias = UInt8[np.ndarray, "size size channel"]
Result: TypeAlias = tuple[bytes, Levels] | str
"""The SHA-256 of a picture's file and its levels; or the reason why it cannot be used."""


@dataclass(frozen=True)
class Kept:
    """Where decoded pictures are kept, and what they are made from, as JSON; those of another origin do not count."""

    path: Path
    origin: dict[str, Any]

    @property
    def note(self) -> Path:
        """The path of the note."""
        return self.path.with_suffix(".json")

    def of(self, state: str | None) -> "Kept":
        """Add the state of the source to the origin."""
        return Kept(self.path, self.origin | {"source_state": state})

    def remove(self) -> None:
        """Remove the pictures and their note."""
        with suppress(OSError):
            self.note.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)


class Spool:
    """The results of decoding pictures, in the order in which they are appended: a record for each usable one.

    `done` counts them all, and `bad` has the reasons of those without a record, by their names. `where` is named if the
    file system refuses.
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, int, int], where: Path, kept: Kept | None) -> None:
        self.done = 0
        self.bad: dict[str, str] = {}
        self._file, self._where, self._kept = file, where, kept
        self._record = np.dtype([("sha256", np.uint8, hashlib.sha256().digest_size), ("levels", np.uint8, shape)])
        self._sha256 = hashlib.sha256()
        self._noted = time.monotonic()
        if kept is not None:
            with writing(where):
                self._take_up(kept)

    def append(self, name: str, result: Result) -> None:
        """Add the result of the next picture."""
        if isinstance(result, str):
            self.bad[name] = result
        else:
            digest, levels = result
            record = digest + levels.tobytes()
            self._sha256.update(record)
            with writing(self._where):
                while record:
                    record = record[self._file.write(record) :]
        self.done += 1
        if time.monotonic() - self._noted >= NOTE_SECONDS:
            self._write_note()

    def records(self) -> np.ndarray:
        """Map all records, each with fields `sha256` and `levels`; if there is a note, bring it up to date."""
        if self._kept is not None and self._kept.note.exists():
            self._write_note()
        count = self.done - len(self.bad)
        return np.asarray(np.memmap(self._file, self._record, "r", 0, (count,)) if count else np.empty(0, self._record))

    def _write_note(self) -> None:
        """Note all that is appended, once it is on the disk."""
        self._noted = time.monotonic()
        if self._kept is None:
            return
        with writing(self._where):
            os.fsync(self._file.fileno())
        note = {"origin": self._kept.origin, "record": str(self._record), "done": self.done, "bad": self.bad}
        write_json(self._kept.note, note | {"records_sha256": self._sha256.hexdigest()})

    def _take_up(self, kept: Kept) -> None:
        """Go on behind the records of an earlier run, if its note is of the same origin and they are intact."""
        size = 0
        note = _read_note(kept.note)
        if (note.get("origin"), note.get("record")) == (kept.origin, str(self._record)):
            noted = (note["done"] - len(note["bad"])) * self._record.itemsize
            sha256 = _hash(self._file, noted)
            if sha256.hexdigest() == note["records_sha256"]:
                size, self._sha256, self.done, self.bad = noted, sha256, note["done"], note["bad"]
        if not self.done:
            kept.note.unlink(missing_ok=True)
        self._file.truncate(size)
        self._file.seek(size)


@contextmanager
def open_spool(shape: tuple[int, int, int], scratch: Path | None, kept: Kept | None) -> Iterator[Spool]:
    """Open the kept file, or else an unnamed one in the folder `scratch`, None for the system's."""
    where = kept.path if kept else scratch or Path(tempfile.gettempdir())
    with writing(where):
        # Without a buffer, because flushing it on closing would fail again on a full disk.
        opened = io.FileIO(where, "a+") if kept else tempfile.TemporaryFile(dir=where, buffering=0)  # noqa: SIM115
    with opened as file:
        yield Spool(file, shape, where, kept)


def _read_note(path: Path) -> dict[str, Any]:
    """Read a note; a missing or damaged one says nothing."""
    with suppress(InputError):
        return read_json(path)
    return {}


def _hash(file: IO[bytes], size: int) -> "hashlib._Hash":
    """Hash the first bytes of a file, as far as it has them."""
    sha256 = hashlib.sha256()
    file.seek(0)
    while size and (chunk := file.read(min(CHUNK, size))):
        sha256.update(chunk)
        size -= len(chunk)
    return sha256
