"""Where a model lies: a file, the results of an experiment, or a folder in the usual layout of model hubs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from spn.config import InputError
from spn.files import SEAL, json_digest, write_bytes, write_text
from spn.notes import Notes, read_notes
from spn.paths import MODEL, model_path

if TYPE_CHECKING:
    from spn.api.chain_model import ChainModel

SUFFIX = ".safetensors"
CONFIG, CARD = "config.json", "README.md"


def find(path: Path, chain: str | None = None) -> Path:
    """Return the model file that `path` means; `chain` chooses one of an experiment's results.

    Raises InputError if there is none, or several.
    """
    if not path.is_dir():
        if chain is not None:
            raise InputError(f"{path}: expected a folder of results with chain {chain}, got no folder")
        return path
    if (path / MODEL).exists() and chain is None:
        return path / MODEL
    found = {file.parent.name: file for file in sorted((path / "chains").glob(f"*/{MODEL}"))}
    names = ", ".join(found) or "none"
    if chain is None and len(found) != 1:
        others = ", ".join(file.name for file in sorted(path.glob(f"*{SUFFIX}")))
        raise InputError(
            f"{path}: expected {MODEL}, or results with one chain, found {len(found)} chains: {names}"
            + (f"; name one of the files: {others}" if others else "")
        )
    chain = chain or next(iter(found))
    if chain not in found:
        raise InputError(f"{model_path(chain, path)}: expected a model file, found no file; chains with one: {names}")
    return found[chain]


def save(model: "ChainModel", path: Path) -> Path:
    """Write a model's file to `path`, or into a folder there; return `path`.

    Raises InputError if the file that it was loaded from has changed since, or if the folder has another model, or a
    card or configuration of other programs.
    """
    content = model.path.read_bytes()
    if _digest(read_notes(model.path)) != _digest(model.notes):
        raise InputError(f"{model.path}: expected the file that was loaded, got another one")
    if path.suffix == SUFFIX:
        write_bytes(path, content)
        return path
    if (path / MODEL).exists() and (path / MODEL).read_bytes() != content:
        raise InputError(f"{path / MODEL}: expected no model to write over but the same, got another")
    for name in (CONFIG, CARD):
        check_own(path / name)
    write_bytes(path / MODEL, content)
    write_text(path / CONFIG, json.dumps(config(model.notes), indent=2) + "\n")
    write_text(path / CARD, model.card)
    return path


def check_own(file: Path) -> None:
    """Raise InputError if `file` exists, and is neither a card nor a configuration that this package wrote."""
    if not file.exists():
        return
    # Both name the library in their second line, as YAML or JSON.
    second = b"".join(file.read_bytes().splitlines()[1:2])
    if second.replace(b'"', b"").strip(b" ,") != b"library_name: spn":
        raise InputError(f"{file}: expected no file to write over but one that spn wrote for a model, got another")


def config(notes: Notes) -> dict[str, object]:
    """Return what `config.json` has: the notes that describe the network, for people and for programs of hubs."""
    keys = ("format", "version", "chain", "params", "shares", "weights")
    return {"library_name": "spn", **{key: notes[key] for key in keys}}


def _digest(notes: Notes) -> str:
    return json_digest({key: value for key, value in notes.items() if key not in (SEAL, "tensors_sha256")})
