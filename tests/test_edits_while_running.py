"""Scripts that change while Snakemake runs: what is recorded is what ran, and the next run does what is needed."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment import tiny_params
from workspace import SECONDS, Workspace, fresh

from spn.checkpoint import load_tensors

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("workspace")]

STAGES = ("high", "low")
JOBS = {
    *(f"{verb}/{stage}" for verb in ("train", "evaluate", "sample/depth") for stage in STAGES),
    *("summarise/depth", "record/depth", "report", "reproduce"),
}
SAMPLING = {*(f"sample/depth/{stage}" for stage in STAGES), "record/depth", "report", "reproduce"}
"""What other samples make run."""

EDITS = (
    (
        "spn/models/spn.py",
        "        self.embedder =",
        "        nn.Linear(1, 1)  # draws numbers\n        self.embedder =",
    ),
    ("workflow/rules/stages.smk", '"exec spn train', '"exec env EDITED=1 spn train'),
    ("workflow/rules/chains.smk", '"spn summarise', '"env EDITED=1 spn summarise'),
)
"""A model whose first weights are others, and rules that have another text."""


def params_of(steps: int, seed: int) -> dict[str, Any]:
    """Give one chain of two stages, of which the second trains for some time."""
    params = tiny_params()
    del params["stages"]["raster"], params["chains"]["raster"]
    params["stages"]["low"]["training"] |= {"steps": steps, "validate_every": 50}
    params["sampling"]["seed"] = seed
    return params


def edit(workspace: Workspace) -> None:
    for path, before, after in EDITS:
        file = workspace.folder / path
        text = file.read_text()
        assert text.count(before) == 1, path
        file.write_text(text.replace(before, after))


def start_training(workspace: Workspace) -> subprocess.Popen[str]:
    """Run Snakemake until the long training has saved its state; its code is loaded, and it goes on for a while."""
    before = {*workspace.folder.glob("runs/low-*.safetensors")}
    process = subprocess.Popen(
        ["snakemake", "--cores", "2"],
        cwd=workspace.folder,
        env=workspace.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + SECONDS
    while before == {*workspace.folder.glob("runs/low-*.safetensors")}:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def code_digest(workspace: Workspace) -> str:
    """Compute the digest of the code of trainings as it lies on the disk."""
    code = "from spn.provenance.recipes import verb_digest as d; print(d('train', 'spn'))"
    return workspace.run("python", "-c", code).output.strip()


def recipe_of(workspace: Workspace, stage: str) -> dict[str, Any]:
    return load_tensors(workspace.folder / f"results/stages/{stage}/checkpoint.safetensors")[1]["recipe"]


def results_of(workspace: Workspace) -> dict[str, bytes]:
    """Read every result that is the same bytes whenever it is made."""
    patterns = ("results/stages/*/nats.npy", "results/stages/*/metrics.json", "results/chains/depth/**/samples.*")
    return {
        name: content
        for pattern in (*patterns, "results/chains/depth/metrics.json", "results/metrics.json")
        for name, content in workspace.read(pattern).items()
    }


def is_true(workspace: Workspace) -> bool:
    """Tell whether `spn verify` believes the results."""
    done = subprocess.run(["spn", "verify"], cwd=workspace.folder, env=workspace.environment, capture_output=True)
    return done.returncode == 0


def test_edits_while_trainings_run(tmp_path: Path) -> None:
    workspace = fresh(tmp_path / "project")
    workspace.write_params(params_of(600, seed=1))
    old = code_digest(workspace)

    running = start_training(workspace)
    edit(workspace)
    final = params_of(601, seed=1)
    final["stages"]["high"]["training"]["steps"] = 7
    workspace.write_params(final)
    said, _ = running.communicate(timeout=SECONDS)
    assert running.returncode != 0, said
    assert not is_true(workspace)
    # What trained all the while is told as what it was.
    assert recipe_of(workspace, "low")["code_digest"] == old != code_digest(workspace)
    assert recipe_of(workspace, "low")["training"]["steps"] == 600
    assert not (workspace.folder / "results/metrics.json").exists()

    done = workspace.snakemake()
    assert done.ran == JOBS
    assert is_true(workspace)
    assert workspace.snakemake().ran <= {"reproduce"}

    # Now parameters of nothing but samples: what was trained meanwhile is what was asked for, and stays.
    final["stages"]["low"]["training"]["steps"] = 600
    workspace.write_params(final)
    running = start_training(workspace)
    final["sampling"]["seed"] = 2
    workspace.write_params(final)
    said, _ = running.communicate(timeout=SECONDS)
    assert running.returncode != 0, said
    assert not is_true(workspace)
    done = workspace.snakemake()
    assert done.ran >= SAMPLING
    assert not [job for job in done.ran if job.startswith(("preprocess", "train"))]
    assert is_true(workspace)

    undisturbed = fresh(tmp_path / "undisturbed")
    edit(undisturbed)
    undisturbed.write_params(final)
    undisturbed.snakemake()
    assert_same(workspace, undisturbed)


def assert_same(workspace: Workspace, undisturbed: Workspace) -> None:
    """Compare all results, weights included."""
    expected = results_of(undisturbed)
    assert {name.rsplit("/", 1)[-1] for name in expected} == {"nats.npy", "metrics.json", "samples.h5", "samples.png"}
    assert results_of(workspace) == expected
    for stage in STAGES:
        weights, notes = load_tensors(workspace.folder / f"results/stages/{stage}/checkpoint.safetensors")
        others, other_notes = load_tensors(undisturbed.folder / f"results/stages/{stage}/checkpoint.safetensors")
        assert all(torch.equal(weight, others[name]) for name, weight in weights.items())
        assert json.dumps(notes["recipe"]) == json.dumps(other_notes["recipe"])
