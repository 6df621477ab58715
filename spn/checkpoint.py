"""Weights with their recipe inside, in one safetensors file; never a pickle."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spn.config import InputError
from spn.provenance import Recipe, differing_keys

Notes = dict[str, Any]

NOTES = "notes"
"""The entry of the file's metadata."""


def save_tensors(path: Path, tensors: dict[str, Tensor], notes: Notes) -> None:
    """Write tensors and JSON notes to a temporary name beside `path`, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    # Cloned, because safetensors refuses tensors that share memory.
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    # One entry, because safetensors writes several in an order that changes from one process to the next.
    save_file(plain, temporary, metadata={NOTES: json.dumps(notes, sort_keys=True)})
    os.replace(temporary, path)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], Notes]:
    """Read what `save_tensors` wrote; raise InputError naming a file that is missing or damaged."""
    notes = load_notes(path)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118 - not a mapping


def load_notes(path: Path) -> Notes:
    """Read the notes alone; raise InputError naming a file that is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get(NOTES, "{}"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: expected a checkpoint, found no file") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: expected a whole safetensors checkpoint: {error}") from error


def load_weights(path: Path, recipe: Recipe) -> dict[str, Tensor]:
    """Read the weights of a checkpoint that was trained with exactly `recipe`; raise InputError otherwise."""
    check_recipe(path, recipe, load_notes(path).get("recipe"))
    return load_tensors(path)[0]


def check_recipe(path: Path, expected: Recipe, actual: Recipe | None) -> None:
    """Raise InputError, naming the first key that differs, unless the recipes are the same."""
    if actual is None:
        raise InputError(f"{path}: expected a recipe inside, found none")
    if different := differing_keys(expected, actual):
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise InputError(f"{path}: made from another recipe than params.yaml asks for: {different[0]}{more}")
