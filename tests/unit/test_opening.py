"""The figure that README opens with shows the figures of its workspaces, and exact ones alone."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from experiment import tiny_params, write_params
from matplotlib.figure import Figure

from benchmarks import opening
from spn.report.tables import TRAIN

MODEL = Path(__file__).parents[2] / "examples/digits.safetensors"


def workspace(folder: Path, estimate: str = "exact") -> Path:
    """Write an experiment whose chain `depth` has two stages and is evaluated, as is `raster`, which has one."""
    write_params(folder, tiny_params())
    for chain, bits in (("depth", 2.25), ("raster", 2.5)):
        path = folder / f"results/chains/{chain}/metrics.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"estimate": estimate, "bits_per_dim": bits}))
    history = folder / "results/stages/raster/history.csv"
    history.parent.mkdir(parents=True)
    with history.open("w") as file:
        rows = csv.DictWriter(file, ["step", TRAIN])
        rows.writeheader()
        rows.writerows({"step": step, TRAIN: value} for step, value in ((10, 3.0), (20, ""), (40, 2.5)))
    return folder


def test_points_are_exact_and_curves_last_as_long_as_the_budget(tmp_path: Path) -> None:
    panel = Figure().subplots()
    opening.draw_curves(panel, workspace(tmp_path), 20)
    labelled = {str(line.get_label()): line for line in panel.lines if not str(line.get_label()).startswith("_")}
    assert set(labelled) == {"2.250 depth", "2.500 raster"}
    (curve,) = (line for line in panel.lines if line not in labelled.values())
    assert np.array_equal(curve.get_xydata(), [[5, 3.0], [20, 2.5]])
    assert curve.get_color() == labelled["2.500 raster"].get_color()


def test_a_bound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        opening.draw_curves(Figure().subplots(), workspace(tmp_path, estimate="bound"), 20)


def test_the_figure_is_written(tmp_path: Path) -> None:
    folder, output = workspace(tmp_path), tmp_path / "opening.png"
    assert opening.main([str(MODEL), "--workspaces", str(folder), "--minutes", "20", "--output", str(output)]) == 0
    assert output.read_bytes().startswith(b"\x89PNG")
