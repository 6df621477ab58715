"""Crops of photographs: every pixel once, and no photograph in two splits."""

from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from benchmarks import crops


def write_pictures(folder: Path, count: int) -> list[np.ndarray]:
    """Write `count` noisy pictures of 13 x 10 pixels."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    pictures = [draws.integers(0, 256, (13, 10, 3), dtype=np.uint8) for _ in range(count)]
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return pictures


def test_pictures_are_cut_edge_to_edge_and_stay_in_one_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = write_pictures(tmp_path / "pictures", 21)
    assert crops.main([str(tmp_path / "pictures"), str(tmp_path / "out"), "--size", "4", "--reduce", "1"]) == 0
    found = {name: np.load(tmp_path / f"out/{name}.npy") for name in ("train", "val", "test")}
    assert {name: each.shape for name, each in found.items()} == {
        "train": (19 * 6, 4, 4, 3),
        "val": (6, 4, 4, 3),
        "test": (6, 4, 4, 3),
    }
    assert capsys.readouterr().out.splitlines()[0] == "train: 114 crops of 4x4"
    for name, number in (("val", 18), ("test", 19)):
        put_together = found[name].reshape(3, 2, 4, 4, 3).swapaxes(1, 2).reshape(12, 8, 3)
        assert np.array_equal(put_together, pictures[number][:12, :8])


def test_a_zip_is_read_and_pictures_are_reduced_by_means(tmp_path: Path) -> None:
    (pixels,) = write_pictures(tmp_path / "pictures", 1)
    with ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "pictures/00.png", "inside/00.png")
        archive.writestr("inside/names.txt", "no picture")
    (picture,) = crops.pictures(tmp_path / "all.zip")
    assert np.array_equal(np.asarray(picture), pixels)
    (one,) = crops.crops(picture, 4, 2)
    means = pixels[:8, :8].reshape(4, 2, 4, 2, 3).mean((1, 3))
    assert np.abs(one - means).max() <= 1
