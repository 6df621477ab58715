"""Reads and decodes the picture files of a folder or zip once each, in one process or several.

The levels go to a file, which is mapped into memory, so that they need none; a killed run goes on behind what it had
written (`spn.data.sources.spool`). Processes decode a few pictures at a time, and only their parent writes, in the
order of the names, so that the number of processes does not change the result.
"""

import hashlib
import multiprocessing
import os
import signal
import stat
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from posixpath import splitext
from threading import Thread
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from spn.config import PICTURE_FORMATS, FolderData, InputError
from spn.data.sources.files import BOUNDED_METHODS, DAMAGED_ZIP
from spn.data.sources.picture import PictureError, decode_picture
from spn.data.sources.source import Resources
from spn.data.sources.spool import Result, open_spool
from spn.data.sources.subfolders import path_parts
from spn.provenance.code import code_digest

MAX_FILE_BYTES = 1 << 28
"""Maximum size of a picture file; a zip may state any size."""

TOGETHER = 16
"""Pictures in a batch that a process decodes."""
AHEAD = 3
"""Batches per process that may wait to be written."""

DECODING = "data/sources/pictures.py:_decode"
"""The code that must be the same in all processes."""

Reader: TypeAlias = Callable[[str], bytes]
"""Reads a file by its name; raises PictureError if it cannot."""


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures: the sorted names of the usable ones, their `records`, and for each `bad` file the reason.

    A record has the SHA-256 of a picture's file and its levels, as the fields `sha256` and `levels`.
    """

    names: tuple[str, ...]
    bad: dict[str, str]
    records: np.ndarray

    @property
    def images(self) -> UInt8[np.ndarray, "image size size channel"]:
        """The levels of all usable pictures."""
        levels: np.ndarray = self.records["levels"]
        return levels

    def digests(self) -> Iterator[tuple[str, str]]:
        """Yield the name of each usable picture and the SHA-256 of its file."""
        for name, record in zip(self.names, self.records, strict=True):
            yield name, record["sha256"].tobytes().hex()


def list_pictures(place: Path) -> tuple[str, ...]:
    """List the names of the images in a folder or zip, sorted, without hidden files and those that macOS adds.

    Raises InputError if `place` is neither a folder nor a zip, is a malicious zip, or has a link to a folder.
    """
    if place.is_dir():
        paths = [(path, path.relative_to(place).as_posix()) for path in place.rglob("*")]
        if linked := sorted(
            name for path, name in paths if path.is_symlink() and path.is_dir() and not _is_hidden(name)
        ):
            raise InputError(
                f"{place / linked[0]}: expected a folder inside, got a link to one, which is not looked into; links to "
                "pictures, and one to the folder of all of them, will do"
            )
        names: Iterable[str] = (name for _, name in paths)
    else:
        archive = _open_zip(place)
        names = archive.namelist()
        for name in names:
            if name.startswith("/") or ".." in path_parts(name):
                raise InputError(f"{place}: expected names inside the archive, got {name}")
        if sum(member.compress_size for member in archive.infolist()) > place.stat().st_size:
            raise InputError(f"{place}: expected members that lie side by side, got some that overlap")
    return tuple(sorted({name for name in names if _is_picture(name)}))


def decode_pictures(place: Path, names: tuple[str, ...], section: FolderData, resources: Resources) -> Pictures:
    """Read and decode all pictures of these names once."""
    with (
        open_spool(section.shape, resources.scratch, resources.kept) as spool,
        closing(_decode_all(place, names[spool.done :], section, resources.processes)) as results,
        tqdm(
            total=len(names),
            initial=spool.done,
            desc=f"decode {place.name}",
            unit="image",
            disable=not resources.progress,
        ) as bar,
    ):
        for name, result in zip(names[spool.done :], results, strict=True):
            spool.append(name, result)
            bar.update()
        return Pictures(tuple(name for name in names if name not in spool.bad), spool.bad, spool.records())


def _decode_all(place: Path, names: tuple[str, ...], section: FolderData, processes: int) -> Generator[Result]:
    """Decode pictures, in the order of their names."""
    parts = (names[start : start + TOGETHER] for start in range(0, len(names), TOGETHER))
    if processes == 1:
        read = _open_reader(place)
        yield from (result for part in parts for result in _decode(read, section, part))
    else:
        with closing(_decode_in_processes(place, parts, section, processes)) as decoded:
            yield from (result for results in decoded for result in results)


def _decode_in_processes(
    place: Path, parts: Iterable[tuple[str, ...]], section: FolderData, processes: int
) -> Generator[list[Result]]:
    """Decode parts in several processes, which end with this generator; only a few parts wait to be written."""
    context = multiprocessing.get_context("spawn")
    code = code_digest(DECODING)
    pool = ProcessPoolExecutor(processes, context, _begin_worker)
    waiting: deque[Future[list[Result]]] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(_decode_in_worker, place, section, part, code))
            if len(waiting) == AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise InputError(
            f"{place}: expected all processes that decode it to go on, one of them was killed or could not start"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent process, and end when it ends, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _decode_in_worker(place: Path, section: FolderData, names: tuple[str, ...], code: str) -> list[Result]:
    return _decode(_reader_of_worker(place, code), section, names)


@cache
def _reader_of_worker(place: Path, code: str) -> Reader:
    """Open a folder or zip once per process; raise InputError unless the process has loaded its parent's code."""
    if code_digest(DECODING) != code:
        raise InputError(f"{place}: expected the same code in all processes, it was edited; run the same command again")
    return _open_reader(place)


def _decode(read: Reader, section: FolderData, names: tuple[str, ...]) -> list[Result]:
    results: list[Result] = []
    for name in names:
        try:
            content = read(name)
            levels = decode_picture(content, section)
        except PictureError as error:
            results.append(str(error))
        else:
            results.append((hashlib.sha256(content).digest(), levels))
    return results


def _open_reader(place: Path) -> Reader:
    return partial(_read_file, place) if place.is_dir() else partial(_read_member, _open_zip(place))


def _read_file(folder: Path, name: str) -> bytes:
    try:
        state = (folder / name).stat()
        if not stat.S_ISREG(state.st_mode):
            raise PictureError("not a file")  # reading a pipe could block for ever
        if state.st_size > MAX_FILE_BYTES:
            raise PictureError(f"more than {MAX_FILE_BYTES} bytes")
        return (folder / name).read_bytes()
    except OSError as error:
        raise PictureError(str(error.strerror)) from error


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a member into memory, up to the size it states; it is never extracted."""
    try:
        member = archive.getinfo(name)
        if member.file_size > MAX_FILE_BYTES:
            raise PictureError(f"more than {MAX_FILE_BYTES} bytes")
        if member.compress_type not in BOUNDED_METHODS:
            raise PictureError(f"compressed by method {member.compress_type}, not by deflate")
        with archive.open(member) as file:
            # With the stated size, because a member that holds more could take any amount of memory.
            return file.read(member.file_size)
    except PictureError:
        raise
    except DAMAGED_ZIP as error:
        raise PictureError(" ".join(str(error).split())[:60]) from error


def _open_zip(place: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(place)
    except DAMAGED_ZIP as error:
        raise InputError(f"{place}: expected a zip archive, got: {' '.join(str(error).split())}") from error


def _is_picture(name: str) -> bool:
    return splitext(name)[1].lower() in PICTURE_FORMATS and not _is_hidden(name)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path_parts(name))
