"""Sends metrics to MLflow in the background, and copes with a store that is unreachable for a while.

Training continues whatever the store does. A thread sends all unsent rows; after a failure it waits for the next row.
A row keeps its first timestamp when it is sent again: a store keeps one point for equal key, step, value and timestamp,
so a batch that arrives twice adds nothing. `record` writes whatever is still unsent at the end, from the checkpoint's
history.

NOTE: MLflow's own asynchronous logging drops values that it fails to send, and keeps the process alive.
"""

import time
from collections.abc import Callable, Sequence
from threading import Event, Lock, Thread

from mlflow.entities import Metric

from spn.tracking.outage import reason, say

_BATCH = 1000
"""MLflow's limit."""

_ROW_SECONDS = 10.0
"""Minimum time between attempts during training, so that many trainings can share a database."""

_END_SECONDS = 1.0
"""Time between attempts at the end."""


class Delivery:
    """A queue of values, which `write` sends to the store at `uri`.

    A line on stderr says when sending begins to fail, and why, and another when it works again.
    """

    def __init__(self, uri: str, write: Callable[[Sequence[Metric]], None]) -> None:
        self._uri, self._write = uri, write
        self._unsent: list[Metric] = []
        self._lock = Lock()
        self._thread = Thread()
        self._next_attempt = 0.0
        self._end: Callable[[], None] | None = None
        self._over = Event()
        self.failure = ""
        """Why the last attempt failed; empty if it did not."""

    def put(self, metrics: Sequence[Metric]) -> None:
        """Queue values to be sent, and return at once; any thread may call it."""
        with self._lock:
            self._unsent += metrics
            if time.monotonic() >= self._next_attempt:
                self._try()

    def finish(self, end: Callable[[], None], patience: float) -> bool:
        """Send the rest, then call `end`; return whether both succeeded within `patience` seconds."""
        self._end, deadline = end, time.monotonic() + patience
        while not self._over.is_set() and (left := deadline - time.monotonic()) > 0:
            with self._lock:
                self._try()
            self._over.wait(min(_END_SECONDS, left))
        return self._over.is_set()

    def _try(self) -> None:
        """Start an attempt in a daemon thread, unless one is running."""
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
                say(f"lost the MLflow store {self._uri}: {reason(error)}; rows are kept, and written later")
            self.failure = reason(error)
        else:
            if self.failure:
                say(f"the MLflow store {self._uri} is back")
            self.failure = ""
            if end is not None:
                self._over.set()
