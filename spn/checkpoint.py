"""Weights and their recipe in one safetensors file; never a pickle.

The notes hold digests of themselves and of the tensors, so that damage is noticed.
"""

import hashlib
import io
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from spn.config import InputError
from spn.files import SEAL, json_digest, write_bytes
from spn.notes import NOTES, RECIPE, TENSORS_SEAL, Notes, check_tensors, opened, tensor_line
from spn.provenance import Recipe, check_recipe


def save_tensors(path: Path, tensors: dict[str, Tensor], notes: Notes) -> None:
    """Write tensors and JSON notes by renaming; raise WriteError if that fails."""
    write_tensors(path, copies(tensors), notes)


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU, so that none shares memory, which safetensors refuses."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def write_tensors(path: Path, plain: dict[str, Tensor], notes: Notes) -> None:
    """Write `copies` of tensors, and JSON notes, as `save_tensors` does."""
    sealed = notes | {TENSORS_SEAL: _tensors_digest(plain)}
    # One entry, because safetensors writes several in an order that differs between processes.
    text = json.dumps(sealed | {SEAL: json_digest(sealed)}, sort_keys=True)
    # Not `save_file`, which leaves its own temporary file when it is killed.
    write_bytes(path, save(plain, metadata={NOTES: text}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], Notes]:
    """Read a file that `save_tensors` wrote; raise InputError if it is missing or damaged.

    The notes have the digest of the tensors, as `TENSORS_SEAL`.
    """
    with opened(path) as file:
        content = file.read()  # at once, so that notes and tensors belong to the same file
    notes = check_tensors(path, io.BytesIO(content))
    try:
        return load(content), notes
    except SafetensorError as error:
        raise InputError(f"{path}: expected a whole safetensors checkpoint, got: {error}") from error


def load_weights(path: Path, recipe: Recipe) -> dict[str, Tensor]:
    """Read the weights of a checkpoint; raise InputError unless it was trained with exactly `recipe`."""
    tensors, notes = load_tensors(path)
    check_recipe(path, recipe, notes.get(RECIPE))
    return tensors


def _tensors_digest(tensors: dict[str, Tensor]) -> str:
    """Hash names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(tensor_line(name, str(tensor.dtype).removeprefix("torch."), tensor.shape))
        # As bytes, because numpy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
