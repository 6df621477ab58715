"""Figures are of the data of their stages: where other images lie in the workspace now, nothing is computed on them."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from experiment import tiny_params, write_params

from spn.cli import main

DATA, KEPT = "data/digits/S2.h5", "kept.h5"


VIEWS: dict[str, Any] = {"chains": {"depth": {"stages": ["high", "low"], "views": ["identity", "flip_horizontal"]}}}
HALF: dict[str, Any] = {"export": {"weights": "bfloat16"}}


def write(sections: dict[str, Any], split_seed: int = 1) -> None:
    raw = tiny_params() | sections
    raw["data"]["split_seed"] = split_seed
    write_params(Path(), raw)


def preprocess() -> None:
    assert main(["preprocess", "--scale-factor", "2", "--output", DATA]) == 0


@pytest.mark.slow
def test_no_figure_is_computed_on_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(HALF)
    preprocess()
    for stage in ("high", "low"):
        folder = f"results/stages/{stage}"
        weights = f"{folder}/checkpoint.safetensors"
        assert main(["train", stage, "--data", DATA, "--output", folder, "--device", "cpu"]) == 0
        assert main(["evaluate", stage, "--data", DATA, "--checkpoint", weights, "--output", folder]) == 0
    shutil.copy(DATA, KEPT)
    chain = "results/chains/depth"
    assert main(["summarise", "depth", "--output", f"{chain}/metrics.json"]) == 0
    other = "made from another recipe than params.yaml asks for: data.split_seed: expected 1, got 2"
    for sections, command, line in (
        (HALF, ["export", "depth", "--data", KEPT], other),
        (VIEWS, ["mix_orders", "depth"], "expected images of digest "),
    ):
        shutil.copy(KEPT, DATA)
        write(sections)
        command += ["--output", chain, "--device", "cpu"]
        assert main(command) == 0
        before = {path: path.read_bytes() for path in Path(chain).iterdir()}
        write(sections, split_seed=2)
        preprocess()
        write(sections)
        capsys.readouterr()
        assert main(command) == 2
        (told,) = (each for each in capsys.readouterr().err.splitlines() if each.startswith("spn: error"))
        assert told.startswith(f"spn: error: {DATA}: {line}")
        assert before == {path: path.read_bytes() for path in Path(chain).iterdir()}


@pytest.mark.parametrize(
    ("sections", "command", "told"),
    [
        (VIEWS, ["summarise", "depth", "--output", "o/metrics.json"], "none for a sum of stages, got identity, flip_"),
        ({}, ["mix_orders", "depth", "--output", "o"], "the views of a mixture of orders, got none"),
    ],
)
def test_a_figure_is_made_by_the_verb_of_its_kind(
    sections: dict[str, Any], command: list[str], told: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write(sections)
    assert main(command) == 2
    assert capsys.readouterr().err.startswith(f"spn: error: chains.depth.views: expected {told}")
    assert not Path("o").exists()


def test_a_chain_without_results_makes_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write({})
    assert main(["record", "depth", "--output", "run.json"]) == 2
    assert capsys.readouterr().err.startswith("spn: error: results/stages/high/metrics.json: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml"]
