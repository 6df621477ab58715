"""Metrics on their way to a store that may be away for a while.

Training goes on whatever the store does. A thread sends all rows that were not sent before, and at the first failure
gives up until the next row. What is sent again has its first timestamps: a store keeps one point for equal key, step,
value and timestamp, so a batch that had arrived after all adds nothing. What is left in the end is in the checkpoint's
history, from which `record` writes it.

NOTE: MLflow's own asynchronous logging drops what fails, and keeps the process alive.
"""

import time
from collections.abc import Callable, Sequence
from threading import Event, Thread

from mlflow.entities import Metric

from spn.tracking.outage import reason, say

_BATCH = 1000
"""As many as MLflow takes at once."""

_ROW_SECONDS = 10.0
"""Least time between attempts while rows come, so that many trainings can share a database."""

_END_SECONDS = 1.0
"""Time between attempts at the end."""


class Delivery:
    """Values on their way to the store at `uri`, which `write` takes there.

    A line on stderr tells that they do not arrive, and why; another that they do again.
    """

    def __init__(self, uri: str, write: Callable[[Sequence[Metric]], None]) -> None:
        self._uri, self._write = uri, write
        self._unsent: list[Metric] = []
        self._thread = Thread()
        self._next_attempt = 0.0
        self._end: Callable[[], None] | None = None
        self._over = Event()
        self.failure = ""
        """Why the last attempt failed; empty if it did not."""

    def put(self, metrics: Sequence[Metric]) -> None:
        """Have some values sent, and return at once."""
        self._unsent += metrics
        if time.monotonic() >= self._next_attempt:
            self._try()

    def finish(self, end: Callable[[], None], patience: float) -> bool:
        """Send what is left, then call `end`; return False if that does not succeed within `patience` seconds."""
        self._end, deadline = end, time.monotonic() + patience
        while not self._over.is_set() and (left := deadline - time.monotonic()) > 0:
            self._try()
            self._over.wait(min(_END_SECONDS, left))
        return self._over.is_set()

    def _try(self) -> None:
        """Begin an attempt, unless one is under way; it keeps no process alive."""
        if not self._thread.is_alive():
            self._next_attempt = time.monotonic() + _ROW_SECONDS
            self._thread = Thread(target=self._attempt, name="mlflow", daemon=True)
            self._thread.start()

    def _attempt(self) -> None:
        try:
            while batch := self._unsent[:_BATCH]:
                self._write(batch)
                del self._unsent[: len(batch)]
            if (end := self._end) is not None:
                end()
        except Exception as error:  # whatever it is, training goes on
            if not self.failure:
                say(f"lost the MLflow store {self._uri}: {reason(error)}; what is measured is kept, and written later")
            self.failure = reason(error)
        else:
            if self.failure:
                say(f"the MLflow store {self._uri} is back")
            self.failure = ""
            if end is not None:
                self._over.set()
