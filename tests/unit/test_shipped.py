"""The models in examples/: RESULTS.md and README state what their files do, and their figures are computed again."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import ROOT, blocks
from source_files import images_of, real_file

import spn
from spn.data.sources import open_source

EXAMPLES = sorted((ROOT / "examples").glob("*.safetensors"))
RESULTS = (ROOT / "RESULTS.md").read_text()
FIGURE = r"(?<![\d.])\d\.\d{4}(?!\d)"
"""A number of bits/dim, as tables state it."""


def test_all_models_together_are_small() -> None:
    assert len(EXAMPLES) >= 2
    assert sum(path.stat().st_size for path in EXAMPLES) < 6_000_000


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_row_of_a_model_is_what_its_file_says(path: Path) -> None:
    (row,) = (line for line in RESULTS.splitlines() if line.startswith(f"| [`examples/{path.name}`]"))
    notes = spn.load(path).notes
    figures, data = notes["figures"], notes["data"]
    stated = {cell.strip() for cell in row.split("|")}
    assert f"{figures['bits_per_dim']:.4f} ± {figures['standard_error']:.4f}" in stated
    assert f"{figures['num_parameters']:,} {notes['weights']}" in stated
    assert {f"`{notes['commit'][:7]}`", f"`{data['digest'][:16]}`"} <= stated
    assert f"{figures['estimate']}, {figures['num_images']:,} {figures['split']} images" in stated


def test_the_figure_of_the_digits_is_computed_again(tmp_path: Path) -> None:
    model = spn.load(ROOT / "examples/digits.safetensors")
    images = images_of(open_source(model.params.data, tmp_path), "test")
    figures = model.notes["figures"]
    bits = model.bits_per_dim(images)
    assert len(bits) == figures["num_images"]
    assert bits.mean() == pytest.approx(figures["bits_per_dim"], abs=1e-5)
    assert bits.std(ddof=1) / len(bits) ** 0.5 == pytest.approx(figures["standard_error"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10_raster", "cifar10_multidimensional"])
def test_the_figure_of_cifar10_holds_on_some_test_images(name: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, real_file("unpack_cifar10.py"), tmp_path], check=True, capture_output=True)
    batch = pickle.loads((tmp_path / "cifar-10-batches-py/test_batch").read_bytes(), encoding="bytes")
    images = batch[b"data"].reshape(-1, 3, 32, 32)[::312].transpose(0, 2, 3, 1)
    model = spn.load(ROOT / f"examples/{name}.safetensors")
    bits = model.bits_per_dim(np.ascontiguousarray(images))
    error = bits.std(ddof=1) / len(bits) ** 0.5
    assert abs(bits.mean() - model.notes["figures"]["bits_per_dim"]) < 3 * error


@pytest.mark.slow
def test_the_commands_of_the_readme_run_one_minute_after_installing(tmp_path: Path) -> None:
    (script,) = (block for block in blocks(ROOT / "README.md") if "make install &&" in block)
    commands = [line for line in script.splitlines() if line.startswith("spn ")]
    assert {command.split()[1] for command in commands} >= {"sample", "score", "encode", "upscale", "inpaint"}
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-euo", "pipefail", "-c", "\n".join(commands)], cwd=tmp_path, env=environment, check=True)
    assert len(list((tmp_path / "pictures").iterdir())) == 16
    for name in ("pictures.spn", "lower.png", "larger.png"):
        assert (tmp_path / name).stat().st_size > 0, name


def test_every_figure_of_the_readme_is_one_of_the_results() -> None:
    readme = (ROOT / "README.md").read_text()
    assert set(re.findall(FIGURE, readme)) <= set(re.findall(FIGURE, RESULTS))
