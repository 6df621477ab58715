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
    """Take note of SIGTERM, which otherwise ends a process on the spot; return what tells whether it came.

    Signals reach the main thread alone: in another one nothing is noted, and SIGTERM stays what it was.
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
