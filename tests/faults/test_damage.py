"""Damaged files: refused by name, or provably harmless; never a crash, a hang, or wrong data."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damages import KINDS, REGIONS, SOURCES
from experiment import tiny_params
from params_file import load
from source_files import data_section, random_images

from spn.config import InputError
from spn.data.hdf5 import SliceFile
from spn.data.preprocess import write_slices
from spn.provenance import stage_recipe

COUNT = 200
READ_BY = {"slices", "checkpoint", "notes of the checkpoint", "metrics.json", "nats.npy", "samples.h5", *SOURCES}
SECONDS = 180
"""Longest wait for all damages, where a library hangs; they take twenty seconds on an idle core."""


def damage_files(folder: Path) -> list[dict[str, Any]]:
    """Run the damages in a process of their own; return what came of each."""
    command = [sys.executable, str(Path(__file__).parents[1] / "helpers/damages.py"), str(folder), str(COUNT)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"hung in {bytes(error.stdout or b'').decode().splitlines()[-1:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{done.returncode} in {lines[-1:]}\n{done.stderr}"
    return [line for line in lines if "outcome" in line]


@pytest.mark.slow
def test_no_damage_is_taken_for_data(tmp_path: Path) -> None:
    tried = damage_files(tmp_path)
    assert [case for case in tried if case["outcome"] not in ("refused", "harmless")] == []
    assert [case["number"] for case in tried] == list(range(COUNT))
    classes = Counter((case["target"], case["region"], case["kind"]) for case in tried)
    assert set(classes) == {(name, region, kind) for name in READ_BY for region in REGIONS for kind in KINDS}
    assert min(classes.values()) >= 2
    assert {
        name for name in READ_BY if any(c["target"] == name and c["outcome"] == "refused" for c in tried)
    } == READ_BY


def arrays(**keys: object) -> dict[str, object]:
    section = {"source": "arrays", "name": "made", "bits": 5, "size": 8, "channels": 1, "release": "made here"}
    return section | {"validation": 4, "test": 4} | keys


def preprocessed(root: Path, images: np.ndarray, **keys: object) -> SliceFile:
    (root / "made").mkdir(parents=True, exist_ok=True)
    np.save(root / "made" / "train.npy", images)
    write_slices(data_section(**arrays(**keys)), 2, (0, 2, 5), root, root / "out.h5", progress=False)
    return SliceFile(root / "out.h5")


def test_a_changed_source_without_a_stated_digest_makes_another_recipe(tmp_path: Path) -> None:
    images = random_images(20, 8, 8, 1)
    params = load(tmp_path, tiny_params() | {"data": arrays()})
    before = preprocessed(tmp_path, images)
    images[7, 3, 3, 0] ^= 128
    after = preprocessed(tmp_path, images)
    assert before.origin.source_digest != after.origin.source_digest
    assert stage_recipe(params, "low", before.digest) != stage_recipe(params, "low", after.digest)


def test_a_source_of_another_digest_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = random_images(20, 8, 8, 1)
    digest = preprocessed(tmp_path, images).origin.source_digest
    assert f"source_digest {digest}\n" in capsys.readouterr().out
    written = (tmp_path / "out.h5").read_bytes()
    assert preprocessed(tmp_path, images, source_digest=digest).path.read_bytes() == written
    changed = images.copy()
    changed[7, 3, 3, 0] ^= 1  # a bit that is dropped: the slices would be the same
    with pytest.raises(InputError) as caught:
        preprocessed(tmp_path, changed, source_digest=digest)
    expected = f"{tmp_path}/made: expected a source of SHA-256 {digest}, as data.source_digest says, got "
    assert str(caught.value).startswith(expected)
    assert (tmp_path / "out.h5").read_bytes() == written
    assert {path.name for path in tmp_path.iterdir()} == {"made", "out.h5"}


def test_stating_the_digest_of_a_source_trains_nothing_again(tmp_path: Path) -> None:
    recipes = [
        stage_recipe(load(tmp_path, tiny_params() | {"data": arrays(**keys)}), "low", "d")
        for keys in ({}, {"source_digest": "a" * 64})
    ]
    assert recipes[0] == recipes[1]
