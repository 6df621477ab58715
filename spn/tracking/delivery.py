"""Metrics on their way to a store that may be away for a while: written by a thread of its own, in batches.

Training never waits for the store. What could not be written is kept, and written again with its first timestamps: a
store keeps one point for equal key, step, value and timestamp, so a batch that had arrived after all adds nothing.
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from mlflow.entities import Metric

from spn.tracking.outage import TrackingError, reaching, reason, say

_BATCH = 500
"""MLflow takes a thousand at once."""

_BATCH_SECONDS = 10.0
"""Between batches that are not full, so that many trainings can share a database; the first is written at once."""

_AGAIN_SECONDS = 5.0
"""Between attempts while the store is away."""

_TELL_SECONDS = 30.0
"""Between lines that say what is being waited for."""


class Delivery:
    """Values on their way to the store at `uri`, to which `write` takes them, in the order given.

    The thread ends with `finish`, and does not keep a process alive. A line tells that the store is lost, and that it
    is back; any other error of `write` is raised by the next `put`, or by `finish`.
    """

    def __init__(self, uri: str, write: Callable[[Sequence[Metric]], None]) -> None:
        self._uri, self._write = uri, write
        self._pending: list[Metric] = []
        self._end: Callable[[], None] | None = None
        self._abandoned = False
        self._lost = ""
        """Why the store is away; empty while it is there."""
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()

    def put(self, metrics: Sequence[Metric]) -> None:
        """Have some values written, and return at once."""
        self._raise_failure()
        with self._changed:
            self._pending += metrics
            self._changed.notify()

    def finish(self, end: Callable[[], None], patience: float) -> None:
        """Write what is left, then call `end`; raise TrackingError where that takes more than `patience` seconds."""
        with self._changed:
            self._end = end
            self._changed.notify()
        deadline = time.monotonic() + patience
        pause = 1.0
        while self._thread.is_alive() and (left := deadline - time.monotonic()) > 0:
            self._thread.join(min(pause, left))
            left = deadline - time.monotonic()
            if self._thread.is_alive() and left > 0:
                say(f"waiting for the MLflow store {self._uri}, {left:.0f} s at most; {self._unwritten()}")
            pause = _TELL_SECONDS
        self._raise_failure()
        if self._abandoned or self._thread.is_alive():
            self._give_up(patience)

    def _give_up(self, patience: float) -> None:
        with self._changed:
            self._abandoned = True
            self._changed.notify()
        why = self._lost or "no answer"
        raise TrackingError(f"the MLflow store {self._uri} was away for {patience:.0f} s: {why}; {self._unwritten()}")

    def _unwritten(self) -> str:
        return f"not written: {len(self._pending)} values and the end of the run"

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                if not self._deliver(partial(self._write, batch)):
                    return
                with self._changed:
                    del self._pending[: len(batch)]
                self._wait(lambda: self._end is not None or len(self._pending) >= _BATCH, _BATCH_SECONDS)
            assert self._end is not None
            self._deliver(self._end)
        except Exception as error:  # the training raises it
            self._failure = error

    def _next_batch(self) -> list[Metric]:
        """Wait for values; return none when there are no more to come."""
        self._wait(lambda: bool(self._pending) or self._end is not None)
        return self._pending[:_BATCH]

    def _deliver(self, write: Callable[[], None]) -> bool:
        """Call `write` until the store has taken it; return False where that was given up."""
        while not self._abandoned:
            ending = self._end
            try:
                with reaching(self._uri):
                    write()
            except TrackingError as error:
                self._tell_lost(reason(error))
                # At the end of training there is an attempt at once: an interrupted one waits for seconds only.
                self._wait(lambda: self._abandoned or self._end is not ending, _AGAIN_SECONDS)  # noqa: B023
            else:
                self._tell_back()
                return True
        return False

    def _wait(self, until: Callable[[], bool], seconds: float | None = None) -> None:
        with self._changed:
            self._changed.wait_for(until, seconds)

    def _tell_lost(self, why: str) -> None:
        if not self._lost and not self._abandoned:
            say(f"lost the MLflow store {self._uri}: {why}; what is measured is kept, and written when it is back")
        self._lost = why

    def _tell_back(self) -> None:
        if self._lost and not self._abandoned:
            say(f"the MLflow store {self._uri} is back")
        self._lost = ""
