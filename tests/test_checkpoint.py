"""Weights with notes in one file: equal contents give equal files, and no damaged file is taken for a whole one."""

from pathlib import Path

import pytest
import torch

from spn.checkpoint import load_notes, load_tensors, save_tensors
from spn.config import InputError

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "step": torch.tensor(5)}
NOTES = {"recipe": {"stage": "low", "bits": [2, 5]}, "history": [{"step": 1, "loss": 0.1}], "step": 5}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_tensors(tmp_path / "new" / "weights.safetensors", TENSORS, NOTES)
    tensors, notes = load_tensors(tmp_path / "new" / "weights.safetensors")
    assert notes == NOTES
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    path, saved = tmp_path / "weights.safetensors", set()
    for _ in range(8):
        save_tensors(path, TENSORS, dict(reversed(NOTES.items())))
        save_tensors(tmp_path / "again.safetensors", TENSORS, NOTES)
        saved |= {path.read_bytes(), (tmp_path / "again.safetensors").read_bytes()}
    assert len(saved) == 1


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_file_cut_short_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "weights.safetensors"
    save_tensors(path, TENSORS, NOTES)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"weights\.safetensors: expected a whole safetensors checkpoint"):
        load_notes(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors: expected a checkpoint, found no file"):
        load_tensors(tmp_path / "none.safetensors")
