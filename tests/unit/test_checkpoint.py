"""Weights with notes in one file: equal contents give equal files, and no damaged file is taken for a whole one."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from spn.checkpoint import load_tensors, save_tensors
from spn.config import InputError
from spn.notes import TENSORS_SEAL, read_tensor_notes

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "step": torch.tensor(5)}
NOTES = {"recipe": {"stage": "low", "bits": [2, 5]}, "history": [{"step": 1, "loss": 0.1}], "step": 5}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_tensors(tmp_path / "new" / "weights.safetensors", TENSORS, NOTES)
    tensors, notes = load_tensors(tmp_path / "new" / "weights.safetensors")
    assert notes.pop(TENSORS_SEAL)
    assert notes == NOTES
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    path, saved = tmp_path / "checkpoint.safetensors", set()
    for _ in range(8):
        save_tensors(path, TENSORS, dict(reversed(NOTES.items())))
        save_tensors(tmp_path / "again.safetensors", TENSORS, NOTES)
        saved |= {path.read_bytes(), (tmp_path / "again.safetensors").read_bytes()}
    assert len(saved) == 1


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_file_cut_short_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_tensors(path, TENSORS, NOTES)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"checkpoint\.safetensors: expected a whole safetensors checkpoint"):
        read_tensor_notes(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors: expected a checkpoint, found no file"):
        load_tensors(tmp_path / "none.safetensors")


def flipped(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_damaged_weight_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_tensors(path, TENSORS, NOTES)
    flipped(path, -1)
    assert NOTES.items() <= read_tensor_notes(path).items()
    with pytest.raises(
        InputError, match=rf"^{path}: expected the tensors that were written.*; delete it to train again$"
    ):
        load_tensors(path)


def test_damaged_notes_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_tensors(path, TENSORS, NOTES)
    flipped(path, path.read_bytes().index(b"low"))
    for read in (read_tensor_notes, load_tensors):
        with pytest.raises(
            InputError, match=rf"^{path}: expected the notes that were written.*; delete it to train again$"
        ):
            read(path)


def test_nobody_is_told_to_delete_a_model_file(tmp_path: Path) -> None:
    path = tmp_path / "from_elsewhere.safetensors"
    path.write_bytes(b"no model")
    with pytest.raises(
        InputError, match=rf"^{path}: expected a whole safetensors checkpoint, got: another kind of file$"
    ):
        load_tensors(path)


@pytest.mark.parametrize(
    "exchanged", [{"weight": TENSORS["step"], "step": TENSORS["weight"]}, {"weight": TENSORS["weight"]}]
)
def test_tensors_belong_to_their_names(tmp_path: Path, exchanged: dict[str, torch.Tensor]) -> None:
    """The notes of one file before the tensors of another."""
    path = tmp_path / "checkpoint.safetensors"
    save_tensors(path, TENSORS, NOTES)
    with safe_open(path, framework="pt") as file:
        notes = file.metadata()
    save_file(exchanged, path, metadata=notes)
    with pytest.raises(InputError, match="expected the tensors that were written"):
        load_tensors(path)


def test_every_type_and_shape_comes_back(tmp_path: Path) -> None:
    types = (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)
    tensors = {str(dtype): torch.ones(2, 3, dtype=dtype) for dtype in types} | {"empty": torch.zeros(0, 4)}
    save_tensors(tmp_path / "all.safetensors", tensors, NOTES)
    loaded, _ = load_tensors(tmp_path / "all.safetensors")
    assert all(
        torch.equal(loaded[name], tensors[name]) and loaded[name].dtype == tensors[name].dtype for name in tensors
    )
    assert {path.name for path in tmp_path.iterdir()} == {"all.safetensors"}
