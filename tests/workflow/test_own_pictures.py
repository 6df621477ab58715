"""A user's pictures in one command: `spn init`, then Snakemake and DVC in the folder that it wrote."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML
from workspace import ROOT, Workspace

pytestmark = pytest.mark.slow


def test_an_experiment_on_pictures_runs_in_its_folder(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, levels in enumerate(np.random.default_rng(0).integers(0, 256, (36, 10, 12, 3), dtype=np.uint8)):
        Image.fromarray(levels).save(pictures / f"{number}.png")
    outside = Workspace(tmp_path, {"PYTHONPATH": str(ROOT)})
    spn = (sys.executable, "-m", "spn")
    said = outside.run(*spn, "init", "mine", "--pictures", "pictures", "--size", "8", "--minutes", "0.01").output
    assert "36 pictures (36 PNG), smallest side 10 pixels" in said
    assert "splits: 30 train, 3 validation, 3 test" in said
    assert "multidimensional: about " in said
    assert said.splitlines()[-1] == "next: cd mine && snakemake --cores all"
    mine = Workspace(tmp_path / "mine", outside.variables)
    planned = mine.plan()
    assert {f"train/{stage}" for stage in ("raster", "first_high", "rest_high", "low")} < planned
    # To be done in less time.
    yaml, params = YAML(), mine.folder / "params.yaml"
    document = yaml.load(params)
    del document["chains"]["multidimensional"]
    yaml.dump(document, params)
    ran = mine.snakemake()
    assert {"preprocess/mine/S1", "train/raster", "record/raster", "reproduce"} <= ran.ran <= planned
    assert "over all 3 test images of mine, 8x8x3, 8 bits" in ran.output
    again = mine.run("dvc", "repro")
    assert again.ran == {"reproduce"}
    assert "sources/mine" in (mine.folder / "dvc.lock").read_text()
    # A picture more, and everything is made again: the link is followed.
    Image.new("RGB", (10, 10)).save(pictures / "more.png")
    assert "train/raster" in mine.plan()
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith("-settings")) == [
        "mine",
        "pictures",
    ]
