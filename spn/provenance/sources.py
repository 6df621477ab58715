"""The state of a source: one digest of all its files, at the cost of reading those that changed.

A file's content is read when its size, times or inode are not those that it had when it was read last. The time of the
last change of the inode is among them, which nobody can set: an edit that keeps size and modification time is noticed.
What was read is kept in an index under `.cache/`, which may be deleted at any time.
"""

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from spn.config import DataSection, InputError
from spn.files import WriteError, json_digest, write_text

CACHE = Path(".cache/sources")

UNSETTLED_SECONDS = 2.0
"""A file that changed so short a time ago may change again within the resolution of its times; it is read once more."""

Index = dict[str, list[int | str]]
"""Of each file: its fingerprint, which is size, modification, change and inode, and then the SHA-256 of its content."""


def source_state(section: DataSection, root: Path, cache: Path = CACHE) -> str | None:
    """Compute the digest of the source's files below `root`: names and contents.

    A folder's files are those whose suffix the source reads, in sub-folders too, hidden ones left out. Returns None if
    the source is bundled, or not there: what was made of it stands by itself then.
    """
    places = [root / place for place in section.places if (root / place).exists()]
    if not places:
        return None
    path = cache / f"{section.name}-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8]}.json"
    known = _read_index(path)
    index = {
        name: _entry(known.get(name), fingerprint, file)
        for place in places
        for name, fingerprint, file in _list_files(place, section.suffixes)
    }
    _keep(path, index, known)
    return json_digest(sorted((name, entry[-1]) for name, entry in index.items()))


def _list_files(place: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, list[int], str]]:
    """List the regular files of a place: name, fingerprint and path. Special files are never opened."""
    if not place.is_dir():
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
        return None  # a link to nowhere, or removed meanwhile


def _fingerprint(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _entry(known: list[int | str] | None, fingerprint: list[int], file: str) -> list[int | str]:
    """Return the entry of the index, reading the file unless its fingerprint is known."""
    if known is not None and known[:-1] == fingerprint:
        return known
    try:
        with open(file, "rb") as content:
            return [*fingerprint, hashlib.file_digest(content, "sha256").hexdigest()]
    except OSError as error:
        raise InputError(f"{file}: expected a readable file of the source: {error.strerror}") from error


def _read_index(path: Path) -> Index:
    """Read the index of the last time; an empty one if there is none, or it is damaged: everything is read then."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    index, sha256 = content.get("files"), content.get("sha256")
    return index if sha256 == json_digest(index) else {}


def _keep(path: Path, index: Index, known: Index) -> None:
    """Write the index of files that have settled; where it cannot be written, they are read again next time."""
    latest = (time.time() - UNSETTLED_SECONDS) * 1e9
    settled = {name: entry for name, entry in index.items() if int(entry[2]) < latest}
    if settled == known:
        return
    try:
        write_text(path, json.dumps({"files": settled, "sha256": json_digest(settled)}))
    except WriteError:
        return
