"""Handles SIGTERM, which clusters send before they kill: training finishes its step, saves its state and ends."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class TerminatedError(BaseException):
    """Training was stopped by SIGTERM and has saved its state; not an Exception, because nothing went wrong."""


@contextmanager
def noting_sigterm() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGTERM came; inside, SIGTERM does not end the process.

    Signals reach only the main thread. In any other thread this does nothing, and SIGTERM has its usual effect.
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
