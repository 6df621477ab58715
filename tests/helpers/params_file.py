"""params.yaml with changes, for the tests of what is accepted and what a mistake is told."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from spn.config import InputError, Params, load_params

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]
TEXT = FILES[0].read_text()
COMPLETE = load_params(FILES[0]).model_dump(mode="json", by_alias=True, exclude_unset=True)
Mistakes = dict[str, tuple[dict[str, object], str]]
"""Changes of params.yaml, by dotted key, and how the message begins that tells the mistake."""
GONE = object()
"""Stands for a key taken away."""
CODES = ("codes2", "codes1")
WITHOUT_CODES = dict.fromkeys([*(f"stages.{name}" for name in CODES), "chains.imagebart"], GONE)
"""Leaves the stages of one family, none of which is conditioned on anything but pixels."""

ALIASED = """\
seed: 1
data: {source: digits, name: digits, bits: 5, validation: 180, test: 360}
stages:
  high:
    scale_factor: 1
    slices: all
    bits: [0, 2]
    model: &model {family: spn, width: 8, heads: 2, transformer_layers: 1, pixelcnn_width: 8, pixelcnn_layers: 1}
    training: &training
      steps: 9
      batch_size: 2
      optimiser: {name: adamw, learning_rate: 0.1}
      warmup_steps: 1
      schedule: cosine
      ema_decay: 0.9
      validate_every: 3
  low: {scale_factor: 1, slices: all, bits: [2, 5], model: *model, training: {<<: *training, steps: 12}}
chains:
  depth: {stages: [high, low]}
sampling: {num_images: 1, seed: 1}
"""
"""A file as they were before `defaults`."""


def as_written() -> dict[str, Any]:
    """Read params.yaml as plain values, `defaults` and stages apart."""
    return YAML(typ="safe", pure=True).load(TEXT)


def plain() -> dict[str, Any]:
    """Read params.yaml as plain values, every stage complete, so that a change of one leaves the others."""
    return copy.deepcopy(COMPLETE)


def changed(changes: dict[str, object], params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Change params.yaml, or other values like it, at dotted keys."""
    params = plain() if params is None else params
    for key, value in changes.items():
        *path, last = key.split(".")
        section = params
        for name in path:
            section = section[name]
        if value is GONE:
            del section[last]
        else:
            section[last] = value
    return params


def load(folder: Path, content: str | bytes | dict[str, Any]) -> Params:
    if isinstance(content, dict):
        content = json.dumps(content, ensure_ascii=False)  # JSON is YAML
    path = folder / "params.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_params(path)


def error_of(folder: Path, content: str | bytes | dict[str, Any]) -> str:
    """Return the one line that a mistake is told, less the name of the file."""
    with pytest.raises(InputError) as caught:
        load(folder, content)
    message = str(caught.value)
    assert message.splitlines() == [message]
    start = f"{folder / 'params.yaml'}: "
    assert message.startswith(start)
    return message.removeprefix(start)


def dotted_keys(value: object, key: str = "") -> Iterator[str]:
    """List every dotted key of params.yaml, sections and lists included."""
    if isinstance(value, dict):
        for name, inner in value.items():
            path = f"{key}.{name}" if key else name
            yield path
            yield from dotted_keys(inner, path)
