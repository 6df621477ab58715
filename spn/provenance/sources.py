"""The state of a source: one digest of all its files, computed by reading only files that changed.

A file is read again if its size, times or inode changed since it was read last. The times include ctime, which no
program can set, so an edit that preserves size and modification time is noticed. Digests are kept in an index under
`.cache/`, which may be deleted at any time.
"""

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from spn.config import DataSection, InputError
from spn.files import WriteError, json_digest, write_text
from spn.paths import CACHE

UNSETTLED_SECONDS = 2.0
"""A file that changed this recently may change again within the resolution of its times, so it is read once more."""

File = tuple[str, list[int], str]
"""Name, fingerprint and path."""

Entries = dict[str, list[int | str]]
"""By name of the file: its fingerprint (size, mtime, ctime, inode), then the SHA-256 of its content."""


def source_state(section: DataSection, root: Path, cache: Path = CACHE / "sources") -> str | None:
    """Compute the digest of the source's files below `root`: names and contents.

    Of a folder and its sub-folders, files count if the source reads their suffix and they are not hidden. Returns None
    if the source is bundled or missing; results made from it are then not compared with it.
    """
    places = [root / place for place in section.places if (root / place).exists()]
    if not places:
        return None
    path = cache / f"{section.name}-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8]}.json"
    return files_state((file for place in places for file in list_files(place, section.suffixes)), path)


def files_state(files: Iterable[File], cache: Path) -> str:
    """Compute the digest of names and contents, reading only files that the index at `cache` does not know."""
    files = sorted(files)
    listing = hashlib.sha256()
    for name, fingerprint, _ in files:
        listing.update(f"{name}\0{fingerprint}\n".encode(errors="surrogateescape"))
    index = _Index(cache)
    if index.head == (head := listing.hexdigest()):
        return index.state
    known = index.files()
    entries = {name: _entry(known.get(name), fingerprint, file) for name, fingerprint, file in files}
    state = json_digest([(name, entry[-1]) for name, entry in entries.items()])
    index.keep(head, state, entries)
    return state


def list_files(place: Path, suffixes: tuple[str, ...]) -> Iterator[File]:
    """List the regular files of a place. Special files are never opened."""
    if not place.is_dir():
        if place.is_file():
            yield place.name, _fingerprint(place.stat()), str(place)
        return
    folders = [(str(place), place.name)]
    while folders:
        folder, prefix = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                name = f"{prefix}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, name))
                elif not suffixes or PurePosixPath(entry.name).suffix.lower() in suffixes:
                    found = _stat(entry)
                    if found is not None and stat.S_ISREG(found.st_mode):
                        yield name, _fingerprint(found), entry.path


def _stat(entry: "os.DirEntry[str]") -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:
        return None  # a broken link, or just removed


def _fingerprint(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _entry(known: list[int | str] | None, fingerprint: list[int], file: str) -> list[int | str]:
    """Return a file's entry for the index, reading the file unless its fingerprint is known."""
    if known is not None and known[:-1] == fingerprint:
        return known
    try:
        with open(file, "rb") as content:
            return [*fingerprint, hashlib.file_digest(content, "sha256").hexdigest()]
    except OSError as error:
        raise InputError(f"{file}: expected a readable file of the source: {error.strerror}") from error


class _Index:
    """The index of a source's files, in two lines: the digest of their listing and their state; then all entries.

    If the listing is unchanged, as it mostly is, the second line is not read. If the index is missing, damaged or
    cannot be written, all files are read again, and nothing else happens.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.head, self.state, self._sha256 = "", "", ""
        with suppress(OSError, ValueError, TypeError, RecursionError), path.open(encoding="utf-8") as file:
            head, state, sha256, check = json.loads(file.readline())
            if check == json_digest([head, state, sha256]):
                self.head, self.state, self._sha256 = head, state, sha256

    def files(self) -> Entries:
        """Read the entries."""
        with suppress(OSError), self._path.open("rb") as file:
            file.readline()
            content = file.read()
            if hashlib.sha256(content).hexdigest() == self._sha256:
                return json.loads(content)
        return {}

    def keep(self, head: str, state: str, entries: Entries) -> None:
        """Write the entries of files that have settled."""
        latest = (time.time() - UNSETTLED_SECONDS) * 1e9
        settled = {name: entry for name, entry in entries.items() if int(entry[2]) < latest}
        content = json.dumps(settled)
        first = [head if len(settled) == len(entries) else "", state, hashlib.sha256(content.encode()).hexdigest()]
        with suppress(WriteError):
            write_text(self._path, f"{json.dumps([*first, json_digest(first)])}\n{content}")
