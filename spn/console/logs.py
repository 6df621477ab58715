"""Reads from a job's log how far its progress bar has got, and why the job failed."""

import re
from dataclasses import dataclass
from pathlib import Path

TAIL = 1 << 16
"""Bytes read from the end of a log; it is long because every update of a bar is in it, and only the last matters."""

ERROR = "spn: error: "
TRACEBACK = "Traceback (most recent call last):"
RANK = re.compile(r"^\[rank\d+\]:\s?")
"""torch's prefix to the lines of one of several processes."""

# As tqdm writes it: `low:  45%|████▌     | 405/900 [00:10<00:12, 40.5step/s, 1.9 bits/dim]`.
BAR = re.compile(
    r"(?P<percent>\d+)%\|[^|]*\|\s*(?P<done>\d+)/(?P<total>\d+) \[(?P<elapsed>[\d:]+)<(?P<left>[\d:]+|\?)"
    r"(?:,\s*(?P<rate>[\d.]+)(?P<unit>[^\d.,\]]*))?"
)


@dataclass(frozen=True)
class Bar:
    """How far a job has got; times in seconds, None if the bar does not show them yet."""

    percent: int
    elapsed: float
    left: float | None
    total: float | None
    """The whole job at the current rate, including any part done before a restart."""


@dataclass(frozen=True)
class Mark:
    """The state of a log before a job starts, to tell what an earlier job has written."""

    modified: int
    size: int


def mark(path: Path) -> Mark | None:
    """Note the state of a log; None if there is no log."""
    try:
        state = path.stat()
    except OSError:
        return None
    return Mark(state.st_mtime_ns, state.st_size)


def read_lines(path: Path, before: Mark | None = None) -> list[str]:
    """Read the last lines of a log without blank ones; of an overwritten line, its last state.

    Empty if there is no log, or if nothing was written since `before`.
    """
    now = mark(path)
    if now is None or now == before:
        return []
    try:
        with path.open("rb") as file:
            file.seek(max(0, now.size - TAIL))
            text = file.read(TAIL).decode(errors="replace")
    except OSError:
        return []
    states = ([part.rstrip() for part in line.split("\r")] for line in text.split("\n"))
    lasts = (next((part for part in reversed(parts) if part), "") for parts in states)
    return [RANK.sub("", line) for line in lasts if line]


def read_bar(lines: list[str]) -> Bar | None:
    """Find the current progress bar in a log."""
    for line in reversed(lines):
        if found := BAR.search(line):
            left = None if found["left"] == "?" else _seconds(found["left"])
            return Bar(int(found["percent"]), _seconds(found["elapsed"]), left, _whole(found))
    return None


INTERRUPTED = "interrupted"
"""The error that a verb tells after Ctrl-C."""


def error_in(lines: list[str]) -> str | None:
    """Find the reason of a failure: the last `spn: error:`, or else the last exception; None if there is neither."""
    for line in reversed(lines):
        if ERROR in line:
            return line.split(ERROR, 1)[1]
    exceptions = [_exception(lines[start + 1 :]) for start, line in enumerate(lines) if TRACEBACK in line]
    # torchrun adds its own traceback after that of the failed process.
    return next((text for text in reversed(exceptions) if text and "ChildFailedError" not in text), None)


def last_word(lines: list[str]) -> str:
    """Describe the end of a log that contains no error."""
    if not lines:
        return "nothing in its log"
    found = BAR.search(lines[-1])
    return f"ended at {found['percent']} % without an error: killed, or out of memory?" if found else lines[-1]


def _exception(lines: list[str]) -> str | None:
    """Return the line that ends a traceback: the first one that is not indented."""
    return next((line for line in lines if not line[0].isspace()), None)


def _seconds(text: str) -> float:
    """Read a time as tqdm writes it, 00:10 or 1:02:03."""
    seconds = 0
    for part in text.split(":"):
        seconds = 60 * seconds + int(part)
    return float(seconds)


def _whole(found: "re.Match[str]") -> float | None:
    """Estimate the seconds of the whole job by the bar's rate, which is in units/s or s/unit."""
    if not found["rate"] or not float(found["rate"]):
        return None
    rate, total = float(found["rate"]), int(found["total"])
    return total / rate if found["unit"].endswith("/s") else total * rate
