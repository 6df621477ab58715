"""Weights with their recipe inside, in one safetensors file; never a pickle.

The notes hold a digest of themselves and one of the tensors, so that a damaged file is never taken for a whole one.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from spn.config import InputError
from spn.files import SEAL, json_digest, write_bytes
from spn.provenance import Recipe, differing_keys

Notes = dict[str, Any]

NOTES = "notes"
"""The entry of the file's metadata."""
TENSORS_SEAL = "tensors_sha256"
"""The key of the notes under which the digest of the tensors lies."""

REMEDY = "delete it to train again"


def save_tensors(path: Path, tensors: dict[str, Tensor], notes: Notes) -> None:
    """Write tensors and JSON notes by renaming; raise WriteError where there is no room."""
    # Cloned, because safetensors refuses tensors that share memory.
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    sealed = notes | {TENSORS_SEAL: _tensors_digest(plain)}
    # One entry, because safetensors writes several in an order that changes from one process to the next.
    text = json.dumps(sealed | {SEAL: json_digest(sealed)}, sort_keys=True)
    # Not `save_file`, which writes to a temporary name of its own, and leaves it there when it is killed.
    write_bytes(path, save(plain, metadata={NOTES: text}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], Notes]:
    """Read what `save_tensors` wrote; raise InputError naming a file that is missing or damaged."""
    notes, expected = _read_notes(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    if _tensors_digest(tensors) != expected:
        raise _damaged(path, "tensors")
    return tensors, notes


def load_notes(path: Path) -> Notes:
    """Read the notes alone; raise InputError naming a file that is missing, or whose notes are damaged."""
    return _read_notes(path)[0]


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


def _read_notes(path: Path) -> tuple[Notes, str]:
    """Read the notes, which must be as they were written, and the digest of the tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads((file.metadata() or {}).get(NOTES, "{}"))
        if notes.pop(SEAL, None) == json_digest(notes):
            return notes, notes.pop(TENSORS_SEAL)
    except FileNotFoundError as error:
        raise InputError(f"{path}: expected a checkpoint, found no file") from error
    except (SafetensorError, OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: expected a whole safetensors checkpoint, got: {reason}; {REMEDY}") from error
    raise _damaged(path, "notes")


def _tensors_digest(tensors: dict[str, Tensor]) -> str:
    """Hash names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{json.dumps(name)} {tensor.dtype} {list(tensor.shape)}\n".encode())
        # As bytes, for numpy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _damaged(path: Path, what: str) -> InputError:
    return InputError(
        f"{path}: expected the {what} that were written, got others: damaged, or of an older version; {REMEDY}"
    )
