"""One training of a recipe at a time, though a killed Snakemake may leave one running, and the next start another."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from spn.distributed import any_of, is_first
from spn.provenance import Recipe, recipe_digest

POLL_SECONDS = 10.0
"""Between two looks whether the other training has ended."""


def state_path(runs: Path, recipe: Recipe) -> Path:
    """Name the file under `runs` that has the state of a recipe's training."""
    return runs / f"{recipe['stage']}-{recipe_digest(recipe)[:16]}.safetensors"


@contextmanager
def claimed(runs: Path, recipe: Recipe) -> Iterator[None]:
    """Wait until no other process trains `recipe`, and keep others waiting meanwhile.

    The system gives the lock back when its process dies, however it dies. A file system without locks is told of, once.
    """
    state = state_path(runs, recipe)
    state.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(state.with_name(f".{state.stem}.lock"))
    try:
        patience = 0.0
        while any_of(is_first() and not _acquired(lock, patience))[0]:
            if is_first() and not patience:
                print(f"{recipe['stage']}: waiting for another process that trains it now", file=sys.stderr)
            patience = POLL_SECONDS
        yield
    finally:
        lock.release()


def _acquired(lock: FileLock, patience: float) -> bool:
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        return False
    except NotImplementedError as error:
        print(f"{lock.lock_file}: not locked, so do not train this stage twice at once: {error}", file=sys.stderr)
    return True
