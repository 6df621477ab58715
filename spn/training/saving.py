"""Writes the states of a training while it goes on."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from spn.checkpoint import copies, write_tensors
from spn.notes import Notes


class Saver:
    """Copies tensors at once, and writes them in a thread, one file at a time; as a context, it ends with `wait`."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="state")
        self._written: Future[None] | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self.wait()

    def write(self, path: Path, tensors: dict[str, Tensor], notes: Notes) -> None:
        """Begin to write tensors and notes as they are now, after the file before; raise what `wait` raises."""
        self.wait()
        self._written = self._thread.submit(write_tensors, path, copies(tensors), notes)

    def wait(self) -> None:
        """Wait until the last file is written; raise WriteError if it could not be, once."""
        written, self._written = self._written, None
        if written is not None:
            written.result()
