"""ImageNet's scale: a million small pictures preprocessed: `python -m benchmarks.million [--count N] [--folder DIR]`.

The preset `imagenet32` reads a zip of PNGs of 32x32: 5,000 pictures of blurred noise under a million names, each with
other bytes. `spn preprocess` with two processes is killed (SIGKILL) once half of them are decoded, and run again; then
it runs whole, to the same file. A tenth of them is read by two processes and by one. Memory is that of all processes,
without what is mapped from files, once a second. A million needs 12 GB of disk.
"""

import argparse
import io
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from benchmarks.machine import cpu_name
from benchmarks.measure import spread
from benchmarks.table import Row, faster, markdown
from spn.data.digest import file_sha256

GROUP = "Preprocessing {:,} pictures"
PRESET = Path(__file__).parents[1] / "presets" / "imagenet32.yaml"
DISTINCT = 5_000
SIDE = 32
LEVELS_BYTES = 3 * SIDE**2
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Done:
    """What a run of `spn preprocess` took: seconds by the clock and of all its processes' time, and bytes of memory."""

    seconds: float
    cpu_seconds: float
    memory: int


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.million", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="number of pictures")
    parser.add_argument("--folder", type=Path, help="where there is room; default: the system's temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = measure(options.count, Path(folder))
    print(f"Measured on {cpu_name()}.\n\n{markdown(rows)}")


def measure(count: int, folder: Path) -> list[Row]:
    """Preprocess all pictures, interrupted and whole, and a tenth of them, in one process too."""
    place, tenth = _prepare(folder / "all", count), count // 10
    _killed(place, count)
    resumed, resumed_file = _whole(place, 2), file_sha256(_output(place))
    whole = _whole(place, 2)
    assert file_sha256(_output(place)) == resumed_file, "expected the same bytes from both"
    few = _prepare(folder / "tenth", tenth)
    two, one = _whole(few, 2), _whole(few, 1)
    group, size, levels = GROUP.format(count), _output(place).stat().st_size, count * LEVELS_BYTES
    grown = (whole.memory - two.memory) / (count - tenth)
    return [
        _row(group, "going on after a kill in the middle, against anew", "s", resumed.seconds, whole.seconds),
        _row(group, "the same, time of all processes", "s", resumed.cpu_seconds, whole.cpu_seconds),
        Row(group, "pictures per second of all processes' time", "", spread([count / whole.cpu_seconds])),
        faster(
            group, f"two processes, against one; {tenth:,} pictures", [two.seconds], [one.seconds], tenth, "pictures/s"
        ),
        _row(group, "peak of memory, against a tenth of the pictures", "MB", whole.memory / 1e6, two.memory / 1e6),
        _row(group, "what it grows by, against the levels", "bytes/picture", grown, LEVELS_BYTES),
        Row(group, f"peak of memory, one process; {tenth:,} pictures", "MB", spread([one.memory / 1e6])),
        _row(group, "size of the file, against the levels", "MB", size / 1e6, levels / 1e6),
    ]


def _row(group: str, name: str, unit: str, ours: float, baseline: float) -> Row:
    """Compare single measurements, of which less is better."""
    return Row(group, name, unit, spread([ours]), spread([baseline]), spread([baseline / ours]))


def _prepare(place: Path, count: int) -> Path:
    """Make a folder with params.yaml and the zip."""
    (place / "sources").mkdir(parents=True)
    text = PRESET.read_text().replace("validation: 10000", f"validation: {count // 100}")
    (place / "params.yaml").write_text(text)
    pictures = [_picture(number) for number in range(min(DISTINCT, count))]
    with zipfile.ZipFile(place / "sources" / "imagenet32.zip", "w") as archive:
        for number in range(count):
            split = "train" if number % 20 else "test"
            archive.writestr(f"{split}/{number:07}.png", _numbered(pictures[number % len(pictures)], number))
    return place


def _picture(seed: int) -> bytes:
    draws, content = np.random.default_rng(seed), io.BytesIO()
    coarse = Image.fromarray(draws.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((SIDE, SIDE))
    noisy = np.asarray(coarse, dtype=np.int16) + draws.integers(-4, 5, (SIDE, SIDE, 3))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(content, "PNG")
    return content.getvalue()


def _numbered(png: bytes, number: int) -> bytes:
    """Put a comment before the last chunk of a PNG, which has 12 bytes."""
    text = b"tEXtnumber\0%d" % number
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    return png[:-12] + chunk + png[-12:]


def _whole(place: Path, processes: int) -> Done:
    """Preprocess to the end."""
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    with _preprocess(place, processes) as command:
        memory = _watch(command, lambda: False)
    assert command.returncode == 0, (place / "log").read_text()
    done = Done(time.perf_counter() - start, _cpu_seconds() - cpu_start, memory)
    print(f"{place.name}: {done}", file=sys.stderr)
    return done


def _killed(place: Path, count: int) -> None:
    """Preprocess until half of the levels are written."""
    with _preprocess(place, 2) as command:
        _watch(command, lambda: _kept_bytes(place) >= count * LEVELS_BYTES / 2)
    assert command.returncode == -signal.SIGKILL, "expected it to be killed in the middle"


@contextmanager
def _preprocess(place: Path, processes: int) -> Iterator[subprocess.Popen[bytes]]:
    arguments = ["--scale-factor", "2", "--output", str(_output(place)), "--threads", str(processes)]
    with (place / "log").open("wb") as log:
        command = subprocess.Popen(
            [sys.executable, "-m", "spn", "preprocess", *arguments], cwd=place, stdout=log, stderr=log
        )
        yield command
        command.wait()


def _watch(command: "subprocess.Popen[bytes]", is_over: Callable[[], bool]) -> int:
    """Wait for the end of a command, or kill it when it is over; return its peak of memory in bytes."""
    peak, root = 0, psutil.Process(command.pid)
    while command.poll() is None:
        peak = max(peak, sum(map(_anonymous_bytes, [root, *root.children(recursive=True)])))
        if is_over():
            command.kill()
        time.sleep(POLL_SECONDS)
    return peak


def _cpu_seconds() -> float:
    """Return the time of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _anonymous_bytes(process: psutil.Process) -> int:
    """Return the memory of a process that no file backs; 0 if it has just ended."""
    try:
        memory = process.memory_info()
    except psutil.NoSuchProcess:
        return 0
    return int(memory.rss - memory.shared)


def _kept_bytes(place: Path) -> int:
    return sum(path.stat().st_size for path in (place / "runs").glob("*.pictures"))


def _output(place: Path) -> Path:
    return place / "S2.h5"


if __name__ == "__main__":
    main()
