"""Pictures per second decoded from a folder: two processes against one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.reference import Scale
from benchmarks.table import Row, faster

GROUP = "Decoding a folder of pictures"

SCRIPT = """
import hashlib, json, sys, time
from pathlib import Path
from spn.config import FolderData
from spn.data.sources import Resources
from spn.data.sources.pictures import decode_pictures, list_pictures

place, processes = Path(sys.argv[1]), int(sys.argv[2])
section = FolderData(source="folder", name="made", bits=8, size=32, channels=3, fit="resize", filter="lanczos")
names = list_pictures(place)
start = time.perf_counter()
pictures = decode_pictures(place, names, section, Resources(processes, place.parent))
print(json.dumps([time.perf_counter() - start, hashlib.sha256(pictures.images.tobytes()).hexdigest()]))
"""
"""Decodes in a process of its own, as the command line does; processes would load this one's modules otherwise."""


def rows(scale: Scale, folder: Path) -> list[Row]:
    """Decode many small pictures and some large ones."""
    small, large = ((40, 32), (4, 64)) if scale.tiny else ((20_000, 32), (500, 1024))
    repetitions = scale.repetitions(3)
    return [
        _row(folder / "small", *small, "png", repetitions),
        _row(folder / "large", *large, "jpg", repetitions),
    ]


def _row(place: Path, count: int, side: int, suffix: str, repetitions: int) -> Row:
    _write(place, count, side, suffix)
    tried = [(_decode(place, 2), _decode(place, 1)) for _ in range(repetitions)]
    shutil.rmtree(place)
    assert len({digest for pair in tried for _, digest in pair}) == 1, "expected the same levels from both"
    two, one = ([seconds for seconds, _ in each] for each in zip(*tried, strict=True))
    return faster(
        GROUP,
        f"{count:,} of {side}x{side}, {suffix.upper()}, to 32x32",
        two,
        one,
        count,
        "pictures/s",
        note="baseline: one process. By the clock on the wall: the start of the two counts, and so does whatever else "
        "the machine does; on one free core the ratio is at most 1",
    )


def _decode(place: Path, processes: int) -> tuple[float, str]:
    """Return the seconds that decoding takes, and the SHA-256 of all levels."""
    command = [sys.executable, "-c", SCRIPT, str(place), str(processes)]
    seconds, digest = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return seconds, digest


def _write(place: Path, count: int, side: int, suffix: str) -> None:
    """Write pictures of blurred noise, a few kinds of them many times."""
    place.mkdir()
    draws = np.random.default_rng(1)
    for number in range(min(count, 20)):
        coarse = draws.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side)).save(place / f"{number}.{suffix}")
    for number in range(20, count):
        shutil.copy(place / f"{number % 20}.{suffix}", place / f"{number}.{suffix}")
