"""The real DVC in real repositories: what it makes again, what it shows, and what it must never record."""

import json
from pathlib import Path
from typing import Any

import pytest
from experiment import tiny_params
from workspace import AFTER_LOW, EVERYTHING, Workspace, finished, with_steps

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("workspace")]

LOCK = "dvc.lock"
CHECKPOINTS = "results/stages/*/checkpoint.safetensors"


@pytest.fixture
def repository(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Workspace:
    """A copy of a repository in which everything is made and committed."""
    return finished(tmp_path_factory.getbasetemp())[0].copy(tmp_path / "project")


def shown(repository: Workspace, *command: str) -> Any:
    """Read what a command of DVC prints as JSON."""
    return json.loads(repository.run("dvc", *command, "--json").output)


def test_dvc_repro_makes_everything_once(tmp_path_factory: pytest.TempPathFactory, repository: Workspace) -> None:
    assert finished(tmp_path_factory.getbasetemp())[1].ran == EVERYTHING
    assert repository.run("dvc", "repro").ran == set()
    assert repository.run("git", "status", "--porcelain").output == ""


def test_a_parameter_and_back_again(repository: Workspace, tmp_path: Path) -> None:
    original = repository.read(LOCK) | repository.read(CHECKPOINTS)
    repository.write_params(with_steps("low", 7))
    changed = repository.run("dvc", "repro")
    assert changed.ran == AFTER_LOW
    assert changed.trained == {"low"}
    assert repository.read(LOCK)[LOCK] != original[LOCK]

    change = shown(repository, "metrics", "diff")["results/metrics.json"]
    assert change.keys() == {"depth.bits_per_dim", "depth.standard_error", "depth.stages.low"}
    metrics = json.loads((repository.folder / "results/metrics.json").read_text())
    assert change["depth.bits_per_dim"]["new"] == metrics["depth"]["bits_per_dim"]
    for command in ("show", "diff"):
        repository.run("dvc", "plots", command, "--out", str(tmp_path / command))
        page = (tmp_path / command / "index.html").read_text()
        for stage in ("raster", "high", "low"):
            assert f"results/plots/curves/{stage}.csv" in page
        assert page.count('"validation_bits_per_dim_estimate": ') >= 6
        assert "stacked by stage" in page
        assert ("HEAD" in page) == (command == "diff")

    repository.write_params(tiny_params())
    reverted = repository.run("dvc", "repro")
    assert reverted.ran == AFTER_LOW
    assert reverted.trained == set()
    assert repository.read(LOCK) | repository.read(CHECKPOINTS) == original
    assert repository.run("git", "status", "--porcelain").output == ""
    assert repository.snakemake().ran == {"reproduce"}


def test_a_fresh_clone_trains_nothing(repository: Workspace, tmp_path: Path) -> None:
    repository.run("dvc", "remote", "add", "--default", "storage", str(tmp_path / "storage"))
    repository.commit()
    repository.run("dvc", "push")
    repository.run("git", "clone", "--quiet", ".", str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    clone.run("dvc", "pull")
    assert clone.run("dvc", "repro").ran == set()
    # File times mean nothing after a pull, so Snakemake may ask for trainings again: they return at once.
    asked = clone.snakemake(*sorted(clone.read(CHECKPOINTS)))
    assert asked.ran <= EVERYTHING
    assert not asked.trained
    assert not list((clone.folder / "runs").glob("*.safetensors"))
    assert clone.read(CHECKPOINTS) == repository.read(CHECKPOINTS)
    assert "up to date" in clone.run("dvc", "status").output
    assert clone.run("git", "status", "--porcelain").output == ""


def test_old_results_are_never_recorded_under_new_parameters(repository: Workspace) -> None:
    before = repository.read(LOCK)
    repository.write_params(with_steps("low", 7))
    repository.run("dvc", "checkout", "--force")
    repository.snakemake("--touch")
    failed = repository.run("dvc", "repro", fails=True)
    assert failed.ran == {"reproduce"}
    assert "low/checkpoint.safetensors: made from another recipe" in failed.output
    assert "training.steps: expected 7, got 6" in failed.output
    assert repository.read(LOCK) == before
