"""params.yaml with changes, for the tests of what is accepted and what a mistake is told."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from spn.config import InputError, Params, load_params

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "params.yaml").read_text()
GONE = object()
"""Stands for a key taken away."""


def plain() -> dict[str, Any]:
    """Read params.yaml as plain values; aliases become copies, so that a change of one stage leaves the others."""
    return json.loads(json.dumps(YAML(typ="safe", pure=True).load(TEXT)))


def changed(changes: dict[str, object]) -> dict[str, Any]:
    """Change params.yaml at dotted keys."""
    params = plain()
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
    """Give the one line that a mistake is told, less the name of the file."""
    with pytest.raises(InputError) as caught:
        load(folder, content)
    message = str(caught.value)
    assert message.splitlines() == [message]
    start = f"{folder / 'params.yaml'}: "
    assert message.startswith(start)
    return message.removeprefix(start)
