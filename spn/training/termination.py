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
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    # Not an Event: setting one takes a lock, for which a second SIGTERM within the first would wait for ever.
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGTERM, before)
