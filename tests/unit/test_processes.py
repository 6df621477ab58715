"""What `spn train --nodes` refuses, and becomes; on a real Slurm it is tested with the workflow."""

import os
import socket
import sys

import pytest

from spn.cli import main

TRAIN = ["train", "low", "--data", "S2.h5", "--output", "out"]


@pytest.mark.parametrize(
    ("job", "gpus", "told"),
    [
        (None, "2", "--nodes: expected 1 outside of a Slurm job, got 2"),
        ("7", "1", "--gpus: expected the GPUs of all 2 nodes together, at least one on each, got 1"),
    ],
)
def test_nodes_without_a_job_or_a_gpu_each_are_refused(
    job: str | None, gpus: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if job is not None:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    assert main([*TRAIN, "--nodes", "2", "--gpus", gpus]) == 2
    assert capsys.readouterr().err == f"spn: error: {told}\n"


class BecameAnotherError(Exception):
    """Stands for the process becoming another program."""


def test_nodes_of_a_job_meet_where_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[str] = []

    def become(program: str, command: list[str]) -> None:
        became.extend([program, *command])
        raise BecameAnotherError

    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(os, "execvp", become)
    with pytest.raises(BecameAnotherError):
        main([*TRAIN, "--nodes", "2", "--gpus", "4"])
    assert became[:5] == ["srun", "srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1"]
    assert {"--nnodes=2", "--rdzv-id=7", "--rdzv-backend=c10d", sys.executable} <= {*became}
    assert any(word.startswith(f"--rdzv-endpoint={socket.gethostname()}:") for word in became)
    assert became[-len(TRAIN) - 6 :] == ["-m", "spn", *TRAIN, "--nodes", "2", "--gpus", "4"]
