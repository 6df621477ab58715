"""A lock on each recipe, because a killed Snakemake may leave a training running when the next one starts it again."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from spn.distributed import any_of, is_first
from spn.files import writing
from spn.provenance import Recipe, recipe_digest

POLL_SECONDS = 5.0
"""Time between two attempts to take the lock."""


def state_path(runs: Path, recipe: Recipe) -> Path:
    """Return the path of the state from which the training of a recipe resumes, under `runs`."""
    return runs / f"{recipe['stage']}-{recipe_digest(recipe)[:16]}.safetensors"


@contextmanager
def training_lock(runs: Path, recipe: Recipe) -> Iterator[None]:
    """Wait until no other process trains `recipe`, and hold the lock meanwhile.

    The system releases the lock when the process ends, even if killed. If the file system has no locks, a line on
    stderr says so. Raises WriteError if the lock's file cannot be made.
    """
    state = state_path(runs, recipe)
    path = state.with_name(f".{state.stem}.lock")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    # No fallback to a lock by the mere existence of a file: it would outlive a killed training.
    lock = FileLock(path, fallback_to_soft=False)
    if any_of(is_first() and _is_taken(lock))[0]:
        if is_first():
            print(f"{recipe['stage']}: waiting for another process that trains it now", file=sys.stderr)
        while any_of(is_first() and _is_taken(lock))[0]:
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _is_taken(lock: FileLock) -> bool:
    """Take the lock, or tell that another process has it."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError as error:
        print(f"{lock.lock_file}: not locked, so do not train this stage twice at once: {error}", file=sys.stderr)
    return False
