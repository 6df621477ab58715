"""A lock on work, because a killed Snakemake may leave a job running when the next one starts it again."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from spn.distributed import any_of, is_first
from spn.files import writing

POLL_SECONDS = 5.0
"""Time between two attempts to take the lock."""


@contextmanager
def locked(path: Path, waiting: str, unlocked: str) -> Iterator[None]:
    """Wait until no other job holds the lock at `path`, and hold it meanwhile; make the file and its folder.

    The processes of one job call this together. The system releases the lock when the process ends, even if killed. A
    line on stderr says that this is `waiting`, or, if the file system has no locks, what may not be done `unlocked`.
    Raises WriteError if the lock's file cannot be made.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    # No fallback to a lock by the mere existence of a file: it would outlive a killed job.
    lock = FileLock(path, fallback_to_soft=False)
    if any_of(is_first() and _is_taken(lock, unlocked))[0]:
        if is_first():
            print(waiting, file=sys.stderr)
        while any_of(is_first() and _is_taken(lock, unlocked))[0]:
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _is_taken(lock: FileLock, unlocked: str) -> bool:
    """Take the lock, or tell that another process has it."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError as error:
        print(f"{lock.lock_file}: not locked, so {unlocked}: {error}", file=sys.stderr)
    return False
