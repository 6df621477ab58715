"""The real DVC in real repositories: what it makes again, what it shows, and what it must never record."""

import base64
import json
import os
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
    changed = repository.run("dvc", "exp", "run", "-S", "stages.low.training.steps=7")
    assert changed.ran == AFTER_LOW
    assert changed.trained == {"low"}
    assert repository.read(LOCK)[LOCK] != original[LOCK]

    change = shown(repository, "metrics", "diff")["results/metrics.json"]
    assert change.keys() == {"depth.bits_per_dim", "depth.standard_error", "depth.stages.low"}
    metrics = json.loads((repository.folder / "results/metrics.json").read_text())
    assert change["depth.bits_per_dim"]["new"] == metrics["depth"]["bits_per_dim"]
    old, new = (change["depth.bits_per_dim"][when] for when in ("old", "new"))
    assert "  params.yaml: stages.low.training.steps: 6 -> 7\n" in changed.output
    assert f"  depth: {old:.4f} -> {new:.4f} bits/dim (" in changed.output
    for command in ("show", "diff"):
        repository.run("dvc", "plots", command)
        page = (repository.folder / "dvc_plots/index.html").read_text()
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
    for path in clone.folder.joinpath("results").rglob("*"):
        os.utime(path, (0, 0))  # the times of a pull mean nothing, and its order is chance
    assert clone.run("dvc", "repro").ran == set()
    assert clone.plan() == {"reproduce"}
    whole = clone.snakemake()
    assert (whole.ran, whole.trained) == ({"reproduce"}, set())
    assert "not recorded in MLflow, because nothing ran in this folder" in whole.output
    assert clone.read(CHECKPOINTS) == repository.read(CHECKPOINTS)
    assert "up to date" in clone.run("dvc", "status").output
    assert clone.run("git", "status", "--porcelain").output == ""
    # What is stale is found where Snakemake remembers nothing.
    clone.write_params(with_steps("low", 7))
    assert clone.plan() == AFTER_LOW - {"record/depth"} | {"record/depth", "record/raster"}


def test_old_results_are_never_recorded_under_new_parameters(repository: Workspace) -> None:
    params = with_steps("low", 7)
    params["sampling"]["seed"] = 2
    params["chains"]["depth"]["temperature"] = {"high": 0.5}
    repository.write_params(params)
    repository.run("dvc", "checkout", "--force")
    repository.snakemake("--touch")
    # A job that is needed in its own right once hid what comes after it.
    marker = base64.b64encode(b"mlflow/chains/raster.json").decode()
    (repository.folder / ".snakemake/incomplete" / marker).write_text("")
    done = repository.run("dvc", "repro")
    assert done.trained == {"low"}
    assert done.ran == AFTER_LOW | {"sample_stage/raster/raster", "sample_stage/depth/high", "record/raster"}
    assert repository.snakemake().ran == {"reproduce"}
