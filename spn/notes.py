"""The *notes* inside every result, read without h5py or safetensors.

They are the first block of an HDF5 file, before HDF5's own bytes; the metadata of a safetensors checkpoint; or a whole
JSON file. Damaged notes are refused. `recipe` says what the result was made from; `trained` holds the digests of the
weights that it was made with, because trainings of one recipe differ between machines and options; `files` holds the
digests of the files written with it, so that files of another run are noticed.
"""

import hashlib
import io
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spn.config import InputError
from spn.files import SEAL, check_file, json_digest, read_json
from spn.paths import CHECKPOINT

Notes = dict[str, Any]
Reader = io.BufferedReader | io.BytesIO

RECIPE, TRAINED, FILES = "recipe", "trained", "files"

MARK = b"spn seal 2, sha256 "
SEAL_BYTES = 16384
"""The first block of an HDF5 file: enough for three splits of eight bit ranges, and a recipe. A power of two."""

METADATA, NOTES = "__metadata__", "notes"
"""The metadata entry of a safetensors header, and the pipeline's entry in it."""
MAX_HEADER_BYTES = 100_000_000
"""The largest header that safetensors accepts."""

REMEDY = "delete it and run the workflow again"
TRAIN_REMEDY = "delete it to train again"

TENSORS_SEAL = "tensors_sha256"
"""The key in a checkpoint's notes for the digest of its tensors."""
DTYPES = {
    "BF16": "bfloat16",
    "BOOL": "bool",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
}
"""Names of types in safetensors and in torch."""


def read_notes(path: Path) -> Notes:
    """Read the notes of a result; raise InputError naming a file that is missing, damaged or of another kind."""
    match path.suffix:
        case ".h5":
            return read_seal(path, "HDF5 file of the pipeline")["notes"]
        case ".safetensors":
            return read_tensor_notes(path)
        case _:
            return read_json(path)


def seal_block(content: Notes) -> bytes:
    """Make the first block of an HDF5 file: JSON and its digest, as text that `head` shows."""
    text = f"\n{json.dumps(content, sort_keys=True)}\n".encode().ljust(SEAL_BYTES - len(MARK) - 64, b"\n")
    block = MARK + hashlib.sha256(text).hexdigest().encode() + text
    assert len(block) == SEAL_BYTES, f"a seal of {len(block)} bytes"
    return block


def read_seal(path: Path, expected: str) -> Notes:
    """Read the first block of an HDF5 file; raise InputError unless it is as `seal_block` made it.

    `expected` describes the expected file in the message.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            block = file.read(SEAL_BYTES)
    except OSError as error:
        raise InputError(f"{path}: expected {expected}, got: {error.strerror}") from error
    digest, text = block[len(MARK) :][:64], block[len(MARK) + 64 :]
    if not block.startswith(MARK):
        raise InputError(
            f"{path}: expected {expected}, got a file without a seal, of an older version or of another kind; "
            f"if the workflow wrote it, {REMEDY}"
        )
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise damaged(path, "its seal")
    return json.loads(text)


def read_tensor_notes(path: Path) -> Notes:
    """Read the notes of a safetensors file; raise InputError unless they are intact."""
    with opened(path) as file:
        return _tensor_notes(path, _tensor_header(path, file))


def weights_digest(path: Path) -> str:
    """Return the digest of a checkpoint's weights; raise InputError unless its notes are intact.

    Read it before the weights: if another process replaces them in between, what is made counts as outdated.
    """
    digest: str = read_tensor_notes(path)[TENSORS_SEAL]
    return digest


def same_weights(parts: Mapping[Path, Notes]) -> dict[str, str]:
    """Return the digests of all weights that results were made with, by the names of their networks.

    Raises InputError if two results were made with other weights of the same network.
    """
    found: dict[str, tuple[str, Path]] = {}
    for path, notes in parts.items():
        for name, digest in notes.get(TRAINED, {}).items():
            known, other = found.setdefault(name, (digest, path))
            if digest != known:
                raise InputError(f"{path}: expected the weights of {name} that {other} was made with, got others")
    return {name: digest for name, (digest, _) in found.items()}


def check_tensors(path: Path, file: Reader) -> Notes:
    """Return the notes of an opened safetensors file; raise InputError unless its tensors match the notes' digest.

    Everything is read from `file`, because another process may replace the file at `path`.
    """
    header = _tensor_header(path, file)
    notes = _tensor_notes(path, header)
    digest = hashlib.sha256()
    with _refusing(path):
        start = file.seek(0) + 8 + int.from_bytes(file.read(8), "little")
        for name, tensor in sorted(header.items()):
            if name != METADATA:
                digest.update(tensor_line(name, DTYPES[tensor["dtype"]], tensor["shape"]))
                first, end = tensor["data_offsets"]
                file.seek(start + first)
                digest.update(file.read(end - first))
    if digest.hexdigest() != notes.get(TENSORS_SEAL):
        raise _damaged_checkpoint(path, "tensors")
    return notes


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a checkpoint; raise InputError if it is missing or not a regular file."""
    check_file(path)
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise InputError(f"{path}: expected a checkpoint, found no file") from error
    except OSError as error:
        raise InputError(f"{path}: expected a whole safetensors checkpoint, got: {error.strerror}") from error
    with file:
        yield file


def tensor_line(name: str, dtype: str, shape: Sequence[int]) -> bytes:
    """Return the line of a tensor's name, type and shape that is hashed before its bytes."""
    return f"{json.dumps(name)} torch.{dtype} {list(shape)}\n".encode()


def content_digest(content: bytes) -> str:
    """Compute the SHA-256 of a file to be written beside a result."""
    return hashlib.sha256(content).hexdigest()


def file_digests(folder: Path, names: Collection[str]) -> dict[str, str]:
    """Compute the SHA-256 of files by their names in `folder`; raise InputError naming a missing one."""
    files = {name: _beside(folder, name) for name in names}
    for file in files.values():
        check_file(file)
    try:
        return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    except OSError as error:
        raise InputError(f"{error.filename}: expected a file of the pipeline: {error.strerror}") from error


def check_files(path: Path, notes: Notes) -> None:
    """Raise InputError unless the files beside the result at `path` match the digests in its notes."""
    names: dict[str, str] = notes.get(FILES, {})
    for name, actual in file_digests(path.parent, names).items():
        if actual != names[name]:
            raise InputError(
                f"{_beside(path.parent, name)}: expected a file of SHA-256 {names[name]}, as {path.name} says, "
                f"got {actual}: damaged, or made at another time; {REMEDY}"
            )


def _beside(folder: Path, name: str) -> Path:
    """Return the path of `name` relative to `folder`, without `..`."""
    return Path(os.path.normpath(folder / name))


def damaged(path: Path, what: str) -> InputError:
    """Return the error for an HDF5 file whose bytes have changed."""
    return InputError(f"{path}: expected the bytes that were written, got others in {what}: damaged; {REMEDY}")


def _tensor_header(path: Path, file: Reader) -> dict[str, Any]:
    """Read the JSON header of a safetensors file, which follows eight bytes that hold its length."""
    with _refusing(path):
        actual = file.seek(0, os.SEEK_END)
        file.seek(0)
        size = int.from_bytes(file.read(8), "little")
        if not 0 < size <= MAX_HEADER_BYTES:
            raise ValueError("another kind of file")
        header = json.loads(file.read(size))
        tensors = [tensor["data_offsets"][1] for name, tensor in header.items() if name != METADATA]
        if (expected := 8 + size + max(tensors, default=0)) != actual:
            raise ValueError(f"{actual} bytes, not the {expected} that its header states")
    return header


def _tensor_notes(path: Path, header: dict[str, Any]) -> Notes:
    with _refusing(path):
        notes = json.loads(header[METADATA][NOTES])
        if notes.pop(SEAL, None) == json_digest(notes):
            return notes
    raise _damaged_checkpoint(path, "notes")


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn any error of reading into an InputError: the file is no safetensors file of the pipeline."""
    try:
        yield
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: expected a whole safetensors checkpoint, got: {reason}{_remedy(path)}") from error


def _damaged_checkpoint(path: Path, what: str) -> InputError:
    return InputError(
        f"{path}: expected the {what} that were written, got others: damaged, or of an older version{_remedy(path)}"
    )


def _remedy(path: Path) -> str:
    """Advise to delete a checkpoint of the workflow, but no model file, which may not be there to be made again."""
    return f"; {TRAIN_REMEDY}" if path.name == CHECKPOINT else ""
