"""Metrics on their way to a store that may be away for a while.

Training never waits for the store. A thread sends all rows that were not sent before, and at the first failure gives up
until the next row. What is sent again has its first timestamps: a store keeps one point for equal key, step, value and
timestamp, so a batch that had arrived after all adds nothing.

NOTE: MLflow's own asynchronous logging drops what fails, and keeps the process alive.
"""

import time
from collections.abc import Callable, Sequence
from threading import Event, Thread

from mlflow.entities import Metric

from spn.tracking.outage import TrackingError, reaching, reason, say

_BATCH = 1000
"""As many as MLflow takes at once."""

_ROW_SECONDS = 10.0
"""Least time between attempts while rows come, so that many trainings can share a database."""

_END_SECONDS = 1.0
"""Time between attempts at the end."""


class Delivery:
    """Values on their way to the store at `uri`, which `write` takes there.

    A line on stderr tells that the store is lost, and that it is back. An error of `write` that is no outage is raised
    by the next `put`, or by `finish`.
    """

    def __init__(self, uri: str, write: Callable[[Sequence[Metric]], None]) -> None:
        self._uri, self._write = uri, write
        self._unsent: list[Metric] = []
        self._thread = Thread()
        self._next_attempt = 0.0
        self._lost = ""
        """Why the store is away; empty while it is there."""
        self._end: Callable[[], None] | None = None
        self._over = Event()
        self._refusal: Exception | None = None

    def put(self, metrics: Sequence[Metric]) -> None:
        """Have some values sent, and return at once."""
        self._raise_refusal()
        self._unsent += metrics
        if time.monotonic() >= self._next_attempt:
            self._try()

    def finish(self, end: Callable[[], None], patience: float) -> None:
        """Send what is left, then call `end`; raise TrackingError where that takes more than `patience` seconds."""
        self._end, deadline, tells = end, time.monotonic() + patience, True
        while not self._over.is_set() and (left := deadline - time.monotonic()) > 0:
            self._try()
            if not self._over.wait(min(_END_SECONDS, left)) and tells:
                say(f"waiting for the MLflow store {self._uri}, {patience:.0f} s at most; {self._rest()}")
                tells = False
        self._raise_refusal()
        if not self._over.is_set():
            why = self._lost or "no answer"
            raise TrackingError(f"the MLflow store {self._uri} was away for {patience:.0f} s: {why}; {self._rest()}")

    def _rest(self) -> str:
        return f"not written: {len(self._unsent)} values and the end of the run"

    def _raise_refusal(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def _try(self) -> None:
        """Begin an attempt, unless one is under way; it keeps no process alive."""
        if not self._thread.is_alive():
            self._next_attempt = time.monotonic() + _ROW_SECONDS
            self._thread = Thread(target=self._attempt, name="mlflow", daemon=True)
            self._thread.start()

    def _attempt(self) -> None:
        try:
            with reaching(self._uri):
                while batch := self._unsent[:_BATCH]:
                    self._write(batch)
                    del self._unsent[: len(batch)]
                if (end := self._end) is not None:
                    end()
        except TrackingError as error:
            why = reason(error)
            if not self._lost:
                say(f"lost the MLflow store {self._uri}: {why}; what is measured is kept, and written when it is back")
            self._lost = why
        except Exception as error:  # the training raises it
            self._refusal = error
            self._over.set()
        else:
            if self._lost:
                say(f"the MLflow store {self._uri} is back")
            self._lost = ""
            if end is not None:
                self._over.set()
