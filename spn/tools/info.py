"""Describes a model in the terminal."""

from collections.abc import Iterator
from pathlib import Path

from spn.api import load
from spn.api.card import describe


def info(model: Path, *, chain: str | None = None) -> Iterator[str]:
    """Yield the lines of a model card for the terminal: data, tiling, figures, training, limits."""
    yield describe(load(model, chain))
