"""Time to notice a changed file in a source, as every start of the workflow does, against reading all files."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.measure import interleaved
from benchmarks.reference import Scale
from benchmarks.table import Row, faster
from spn.provenance.sources import File, files_state, list_files

GROUP = "Noticing what changed in a source"
FILE_BYTES = 5_000
"""About the size of a 64x64 photograph as PNG."""


def rows(scale: Scale, folder: Path) -> list[Row]:
    """Check a folder in which one file changed, and a listing of a million files that need not exist."""
    return [_folder_row(scale, folder / "pictures"), _listing_row(scale, folder)]


def _folder_row(scale: Scale, place: Path) -> Row:
    count = 200 if scale.tiny else 20_000
    draws = np.random.default_rng(1)
    for number in range(count):
        path = place / f"{number % 100:02}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draws.bytes(FILE_BYTES))
    time.sleep(2.5)  # younger files are read every time
    index = place.with_name("index.json")

    def look(cache: Path) -> str:
        return files_state(list_files(place, (".png",)), cache)

    def again() -> str:
        changed.write_bytes(draws.bytes(FILE_BYTES))
        return look(index)

    def afresh() -> str:
        shutil.rmtree(place.with_name("none"), ignore_errors=True)
        return look(place.with_name("none") / "index.json")

    changed = place / "00" / "0.png"
    look(index)
    before = look(index)
    assert again() != before, "a changed file must be noticed"
    seconds = interleaved({"again": again, "afresh": afresh}, scale.repetitions(5))
    shutil.rmtree(place)
    return faster(
        GROUP,
        f"{count:,} pictures of {FILE_BYTES // 1000} kB in 100 folders, one changed",
        seconds["again"],
        seconds["afresh"],
        count,
        "files/s",
        note="baseline: reading and digesting all of them, out of memory",
    )


def _listing_row(scale: Scale, folder: Path) -> Row:
    count = 2_000 if scale.tiny else 1_000_000
    empty = folder / "empty.png"
    empty.write_bytes(b"")

    def listing(first: int) -> Iterator[File]:
        for number in range(count):
            yield f"{number % 1000:03}/{number}.png", [0, first, first, number], str(empty)

    def again() -> str:
        return files_state(listing(first=1), index)

    def afresh() -> str:
        return files_state(listing(first=2), index.with_name("none.json"))

    index = folder / "listing.json"
    again()
    seconds = interleaved({"again": again}, scale.repetitions(2), warm_up=0)
    seconds |= interleaved({"afresh": afresh}, 1, warm_up=0)
    return faster(
        GROUP,
        f"a synthetic listing of {count:,} files, none changed",
        seconds["again"],
        seconds["afresh"] * len(seconds["again"]),
        count,
        "files/s",
        note="baseline: opening an empty file for each of them, once; without the file system's own listing",
    )
