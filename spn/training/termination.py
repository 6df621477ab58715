"""SIGTERM, by which clusters preempt and time out: the step is finished, the state saved, the process left."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class TerminatedError(BaseException):
    """Training was asked to stop and has saved its state; no Exception, because nothing went wrong."""


@contextmanager
def noting_sigterm() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGTERM came, which no longer ends the process on the spot.

    Signals reach the main thread alone: in any other thread nothing is noted, and SIGTERM has its usual effect.
    """
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.set()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield noted.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
