"""A lock on each recipe: a killed Snakemake may leave a training running, and the next one must not start it twice."""

import fcntl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from spn.distributed import any_of, is_first
from spn.files import writing
from spn.provenance import Recipe, recipe_digest

POLL_SECONDS = 5.0
"""Between two attempts to take the lock."""


def state_path(runs: Path, recipe: Recipe) -> Path:
    """Name the file under `runs` that holds the state of a recipe's training."""
    return runs / f"{recipe['stage']}-{recipe_digest(recipe)[:16]}.safetensors"


@contextmanager
def training_lock(runs: Path, recipe: Recipe) -> Iterator[None]:
    """Wait until no other process trains `recipe`, and keep others waiting meanwhile.

    The system releases the lock when its process ends, however it ends. A line on stderr tells of a file system
    without locks; WriteError is raised where the lock's file cannot be made.
    """
    state = state_path(runs, recipe)
    lock = state.with_name(f".{state.stem}.lock")
    with writing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    with file:
        if any_of(is_first() and not _lock(file))[0]:
            if is_first():
                print(f"{recipe['stage']}: waiting for another process that trains it now", file=sys.stderr)
            while any_of(is_first() and not _lock(file))[0]:
                time.sleep(POLL_SECONDS)
        yield


def _lock(file: IO[str]) -> bool:
    """Lock an open file until it is closed; return False where another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        print(f"{file.name}: not locked, so do not train this stage twice at once: {error}", file=sys.stderr)
    return True
