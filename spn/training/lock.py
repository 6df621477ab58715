"""A lock on each recipe: a killed Snakemake may leave a training running, and the next one must not start it twice."""

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
    path = state.with_name(f".{state.stem}.lock")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    # A file as the lock, where the system has none, would outlive a killed training.
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
    """Take the lock, unless another process has it."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError as error:
        print(f"{lock.lock_file}: not locked, so do not train this stage twice at once: {error}", file=sys.stderr)
    return False
