"""What `spn train --nodes` refuses; on a real Slurm it is tested with the workflow."""

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
