"""A training that is killed under Snakemake, and Snakemake killed with it: both go on where they were."""

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from workspace import AFTER_LOW, Workspace, finished, with_steps

from spn.checkpoint import load_tensors
from spn.cli import main
from spn.notes import read_tensor_notes

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("workspace")]

LOW = "results/stages/low/checkpoint.safetensors"


@pytest.fixture
def workspace(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Workspace:
    """A copy of the finished experiment."""
    return finished(tmp_path_factory.getbasetemp())[0].copy(tmp_path / "project")


def start(workspace: Workspace) -> "subprocess.Popen[bytes]":
    """Start the workflow and do not wait for it."""
    command = ["snakemake", "--cores", "2", "--rerun-incomplete"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=workspace.folder, env=workspace.environment, stdout=quiet, stderr=quiet)


def training_of(snakemake: "subprocess.Popen[bytes]", stage: str) -> psutil.Process:
    """Find the training process of a stage among the descendants of Snakemake."""
    for process in psutil.Process(snakemake.pid).children(recursive=True):
        command = process.cmdline()
        if "python" in Path(command[0] if command else "").name and {"train", stage} <= set(command):
            return process
    raise AssertionError(f"nothing trains {stage}")


def step_of(workspace: Workspace, before: set[Path]) -> int:
    """Return the step of the training state that is new in runs/; 0 where there is none."""
    new = set((workspace.folder / "runs").glob("low-*.safetensors")) - before
    return read_tensor_notes(new.pop())["step"] if new else 0


def stop_training(workspace: Workspace, snakemake: "subprocess.Popen[bytes]", before: set[Path], saved: int = 0) -> int:
    """Wait until the training has saved more steps than it had; stop it (SIGSTOP), and give the step of its state."""
    deadline = time.monotonic() + 120
    while step_of(workspace, before) <= saved:
        assert snakemake.poll() is None, "ended before it was interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    training_of(snakemake, "low").suspend()
    return step_of(workspace, before)


def test_an_interrupted_training_goes_on_where_it_was_killed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set((workspace.folder / "runs").iterdir())
    steps = 100
    workspace.write_params(with_steps("low", steps, validate_every=5))
    snakemake = start(workspace)
    first = stop_training(workspace, snakemake, before)

    # A second Snakemake on the same checkout leaves at once, and disturbs nothing.
    refused = workspace.snakemake("--rerun-incomplete", fails=True)
    assert "Directory cannot be locked" in refused.output
    assert not refused.trained
    assert snakemake.poll() is None
    training_of(snakemake, "low").kill()
    assert snakemake.wait(60) != 0
    assert 0 < first < steps

    # What failed is seen to be missing, though Snakemake has kept the checkpoint of the recipe before.
    assert workspace.plan() == AFTER_LOW
    snakemake = start(workspace)
    second = stop_training(workspace, snakemake, before, first)
    killed = [psutil.Process(snakemake.pid), *psutil.Process(snakemake.pid).children(recursive=True)]
    for process in killed:
        process.kill()
    assert snakemake.wait(60) == -signal.SIGKILL
    assert first < second < steps

    workspace.snakemake("--unlock")
    finish = workspace.run("snakemake", "--profile", "workflow/profiles/local", LOW)
    assert (finish.ran, finish.trained) == ({"train/low"}, {"low"})
    assert f" {second}/{steps} " in (workspace.folder / "logs/train/low.log").read_text().split("\r")[0]

    # The same training, never interrupted.
    monkeypatch.chdir(workspace.folder)
    whole = ["train", "low", "--data", "data/digits/S2.h5"]
    assert main([*whole, "--output", "whole", "--runs", "whole/runs"]) == 0
    resumed, uninterrupted = (load_tensors(Path(path))[0] for path in (LOW, "whole/checkpoint.safetensors"))
    assert resumed.keys() == uninterrupted.keys()
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in resumed)
