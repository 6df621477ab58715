"""The state of a training under `runs/`, and a lock on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spn.lock import locked
from spn.provenance import Recipe, recipe_digest


def state_path(runs: Path, recipe: Recipe) -> Path:
    """Return the path of the state from which the training of a recipe resumes, under `runs`."""
    return runs / f"{recipe['stage']}-{recipe_digest(recipe)[:16]}.safetensors"


@contextmanager
def training_lock(runs: Path, recipe: Recipe) -> Iterator[None]:
    """Wait until no other job trains `recipe`, and hold a lock meanwhile; see `spn.lock`."""
    state = state_path(runs, recipe)
    waiting = f"{recipe['stage']}: waiting for another process that trains it now"
    with locked(state.with_name(f".{state.stem}.lock"), waiting, "do not train this stage twice at once"):
        yield
