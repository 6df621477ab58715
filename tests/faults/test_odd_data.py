"""Data sets at the edge: empty, of one image, of black images; and sizes that no scale factor divides.

A loss that is not finite is in test_training, splits without folder or count in test_sources_folder and
test_sources_arrays, a scale factor that does not divide the size, for all stages of a file, in test_params.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damages import Experiment
from experiment import tiny_params, write_params
from PIL import Image

from spn.cli import main
from spn.config import load_params
from spn.data.hdf5 import SliceFile
from spn.data.images import read_images
from spn.files import read_json
from spn.training import train_stage


def folder_params(**keys: Any) -> dict[str, Any]:
    """Return the tiny experiment of two stages on a folder of pictures, 8x8 and grey."""
    params = tiny_params()
    section = {"source": "folder", "name": "pictures", "bits": 5, "size": 8, "channels": 1}
    params["data"] = section | {"fit": "crop", "filter": "box", "validation": 2, "test": 2} | keys
    params["chains"] = {"depth": {"stages": ["high", "low"]}}
    return params


def write_pictures(root: Path, pictures: dict[str, np.ndarray]) -> Path:
    (root / "pictures").mkdir(parents=True)
    for name, picture in pictures.items():
        path = root / "pictures" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    return root / "pictures"


def preprocess(root: Path, params: dict[str, Any]) -> int:
    arguments = [
        "--params",
        write_params(root, params),
        "--scale-factor",
        "2",
        "--sources",
        root,
        "--runs",
        root / "runs",
    ]
    return main(["preprocess", *map(str, arguments), "--output", str(root / "S2.h5")])


def mistake(root: Path, params: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that preprocess ends with, having written nothing."""
    assert preprocess(root, params) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line and "image/s" not in line]
    assert not (root / "S2.h5").exists()
    assert len(lines) == 1
    return lines[0].removeprefix("spn: error: ")


BLACK = np.zeros((8, 8), dtype=np.uint8)


def test_an_empty_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_pictures(tmp_path, {})
    assert mistake(tmp_path, folder_params(), capsys).startswith(f"{folder}: expected images (.png, ")


def test_one_image_is_too_few_for_three_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_pictures(tmp_path, {"a.png": BLACK})
    expected = f"data.validation: expected fewer than the 1 images left in {folder}, got 1"
    assert mistake(tmp_path, folder_params(validation=1, test=1), capsys) == expected


def test_a_picture_of_the_source_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_pictures(tmp_path, {f"{index}.png": BLACK for index in range(9)})
    before = {path: path.read_bytes() for path in folder.iterdir()}
    params = write_params(tmp_path, folder_params())
    command = ["preprocess", "--params", str(params), "--scale-factor", "2", "--sources", str(tmp_path)]
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--runs", str(tmp_path / "runs"), "--output", str(folder / "0.png")])
    expected = f"spn: error: argument --output: expected a file ending in .h5, got {folder}/0.png; see spn "
    assert capsys.readouterr().err.startswith(expected)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_of_no_images_is_named(split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path, {f"{index}.png": BLACK for index in range(9)})
    message = mistake(tmp_path, folder_params(**{split: 0}), capsys)
    assert message.startswith(f"{tmp_path / 'params.yaml'}: data.")
    assert f"{split}: Input should be greater than or equal to 1, got 0" in message


def test_a_folder_of_no_images_for_a_split_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = {f"train/{index}.png": BLACK for index in range(9)} | {"test/a.png": BLACK}
    folder = write_pictures(tmp_path, pictures)
    (folder / "test" / "a.png").write_bytes(b"")
    message = mistake(tmp_path, folder_params(unreadable="skip", test=None), capsys)
    assert message == f"data.test: expected a count, as {folder} has no test images of its own, got none"


def test_arrays_of_no_images_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "made").mkdir()
    for split, count in {"train": 9, "val": 2, "test": 0}.items():
        np.save(tmp_path / "made" / f"{split}.npy", np.zeros((count, 8, 8, 1), dtype=np.uint8))
    params = folder_params()
    params["data"] = {"source": "arrays", "name": "made", "bits": 5, "size": 8, "channels": 1, "release": "made here"}
    assert mistake(tmp_path, params, capsys) == f"{tmp_path / 'made'}: expected test images, got none"


def test_a_scale_factor_that_does_not_divide_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path, {f"{index}.png": np.zeros((9, 9), dtype=np.uint8) for index in range(9)})
    expected = "stages.raster.scale_factor: expected a divisor of the image size 9x9, got 2 (line 14)"
    params = folder_params(size=9)
    params["stages"]["raster"]["scale_factor"] = 2
    assert mistake(tmp_path, params, capsys) == f"{tmp_path / 'params.yaml'}: {expected}"


@pytest.mark.slow
def test_black_images_are_learned(tmp_path: Path) -> None:
    """Every law may become certain; validation and test have one image each."""
    write_pictures(tmp_path, {f"{index}.png": BLACK for index in range(20)})
    assert preprocess(tmp_path, folder_params(validation=1, test=1)) == 0
    files = ["--params", tmp_path / "params.yaml", "--data", tmp_path / "S2.h5"]
    for name in ("high", "low"):
        learn(tmp_path, name)
        files_of_stage = [
            *files,
            "--checkpoint",
            tmp_path / name / "checkpoint.safetensors",
            "--output",
            tmp_path / name,
        ]
        assert main(["evaluate", name, *map(str, files_of_stage)]) == 0
        metrics = read_json(tmp_path / name / "metrics.json")
        assert 0 < metrics["bits_per_dim"] < 10
        assert metrics["standard_error"] is None
    given: list[str] = []
    for name in ("high", "low"):
        files_of_stage = [
            *files,
            "--checkpoint",
            tmp_path / name / "checkpoint.safetensors",
            "--output",
            tmp_path / name,
        ]
        assert main(["sample_stage", "depth", name, *map(str, files_of_stage), *given]) == 0
        given = ["--given", str(tmp_path / name / "samples.h5")]
    images, notes = read_images(tmp_path / "low" / "samples.h5")
    assert images.shape == (4, 8, 8, 1)
    assert notes["recipe"]["data_digest"] == SliceFile(tmp_path / "S2.h5").digest


@pytest.mark.slow
def test_a_single_test_image_is_reported(tmp_path: Path) -> None:
    """NumPy takes a tensor of one element for an integer, with which an array of figures becomes a figure."""
    experiment = Experiment(tmp_path)
    experiment.make(test=1)
    experiment.sample("low", "--given", experiment.samples("high") / "samples.h5")
    experiment.summarise()
    files = ["--params", experiment.params, "--data", experiment.data, "--results", tmp_path]
    assert main(["report", *map(str, files)]) == 0
    bits = read_json(tmp_path / "chains" / "depth" / "metrics.json")["bits_per_dim"]
    assert f"{bits:.2f}" in (tmp_path / "plots" / "gallery.html").read_text()


def learn(root: Path, name: str) -> None:
    """Train a stage some steps; every figure of its history is finite."""
    import torch

    rows: list[dict[str, Any]] = []
    params, data = load_params(root / "params.yaml"), SliceFile(root / "S2.h5")
    train_stage(params, name, data, root / name, root / "runs", torch.device("cpu"), rows.append)
    assert rows[-1]["step"] == 6
    assert all(np.isfinite(value) for row in rows for value in row.values())
