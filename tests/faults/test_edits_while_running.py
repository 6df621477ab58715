"""Scripts that change while Snakemake runs: what is recorded is what ran, and the next run does what is needed."""

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment import tiny_params
from slurm import Cluster
from workspace import SECONDS, Workspace, fresh

from spn.checkpoint import load_tensors

pytestmark = pytest.mark.slow

LOCAL = ("snakemake", "--cores", "2")
SLURM: tuple[str, ...] = ("snakemake", "--profile", "workflow/profiles/slurm", "--retries", "0")
SLURM += ("--slurm-init-seconds-before-status-checks", "3", "--max-status-checks-per-second", "10")
"""Snakemake on a cluster; a toy's jobs take seconds, and one that is refused is refused again."""

STAGES = ("high", "low")
STEPS = 200
"""Of the long training: some seconds, of which three quarters are left when it has saved its state first."""
JOBS = {
    *(f"{verb}/{stage}" for verb in ("train", "evaluate", "sample_stage/depth") for stage in STAGES),
    *("summarise/depth", "export/depth", "record/depth", "report", "reproduce"),
}
SAMPLING = {*(f"sample_stage/depth/{stage}" for stage in STAGES), "record/depth", "report", "reproduce"}
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


DIGEST = """
from pathlib import Path
from spn.config import load_params
from spn.provenance.recipes import verb_digest
print(verb_digest("train", load_params(Path("params.yaml")).stages["low"]))
"""


def params_of(steps: int, seed: int) -> dict[str, Any]:
    """Return one chain of two stages, of which the second trains for some time."""
    params = tiny_params()
    del params["stages"]["raster"], params["chains"]["raster"]
    params["stages"]["low"]["training"] |= {"steps": steps, "validate_every": 50}
    params["sampling"]["seed"] = seed
    return params


def edit(workspace: Workspace) -> None:
    for each in EDITS:
        workspace.edit(*each)


def start_training(workspace: Workspace, snakemake: tuple[str, ...]) -> subprocess.Popen[str]:
    """Run Snakemake until the long training has saved its state; its code is loaded, and it goes on for a while."""
    before = {*workspace.folder.glob("runs/low-*.safetensors")}
    process = subprocess.Popen(
        snakemake,
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


def ran(workspace: Workspace, snakemake: tuple[str, ...]) -> set[str]:
    """Run Snakemake to its end and name the rules' jobs that ran."""
    return {job for job in workspace.run(*snakemake).ran if not job.startswith("slurm/")}


def code_digest(workspace: Workspace) -> str:
    """Compute the digest of the code of trainings as it lies on the disk."""
    return workspace.run("python", "-c", DIGEST).output.strip()


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


@pytest.mark.xdist_group("workspace")
def test_edits_while_trainings_run(tmp_path: Path) -> None:
    workspace = fresh(tmp_path / "project")
    final = edit_everything_while_it_trains(workspace, LOCAL)
    edit_sampling_while_it_trains(workspace, LOCAL, final)
    assert_as_undisturbed(workspace, fresh(tmp_path / "undisturbed"), final)


@pytest.mark.xdist_group("cluster")
def test_edits_while_trainings_run_on_a_cluster(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("edits")  # a short name: Slurm puts sockets there
    local = fresh(folder / "project")
    with Cluster(folder / "slurm", num_nodes=2) as cluster:
        workspace = replace(local, variables=cluster.variables)
        final = edit_everything_while_it_trains(workspace, SLURM)
    assert local.snakemake().ran <= {"reproduce"}
    assert_as_undisturbed(local, fresh(folder / "undisturbed"), final)


def edit_everything_while_it_trains(workspace: Workspace, snakemake: tuple[str, ...]) -> dict[str, Any]:
    """Edit a model, rules and parameters during a training, and run again; return the parameters of the end."""
    workspace.write_params(params_of(STEPS, seed=1))
    old = code_digest(workspace)
    running = start_training(workspace, snakemake)
    edit(workspace)
    final = params_of(STEPS + 1, seed=1)
    final["stages"]["high"]["training"]["steps"] = 7
    workspace.write_params(final)
    said, _ = running.communicate(timeout=SECONDS)
    assert running.returncode != 0, said
    assert not is_true(workspace)
    # What trained all the while is told as what it was.
    assert recipe_of(workspace, "low")["code_digest"] == old != code_digest(workspace)
    assert recipe_of(workspace, "low")["training"]["steps"] == STEPS
    assert not (workspace.folder / "results/metrics.json").exists()

    assert ran(workspace, snakemake) == JOBS
    assert is_true(workspace)
    assert ran(workspace, snakemake) <= {"reproduce"}
    return final


def edit_sampling_while_it_trains(workspace: Workspace, snakemake: tuple[str, ...], params: dict[str, Any]) -> None:
    """Edit parameters of nothing but samples, back in a training that was done before, and run again."""
    params["stages"]["low"]["training"]["steps"] = STEPS
    workspace.write_params(params)
    running = start_training(workspace, snakemake)
    params["sampling"]["seed"] = 2
    workspace.write_params(params)
    said, _ = running.communicate(timeout=SECONDS)
    assert running.returncode != 0, said
    assert not is_true(workspace)
    done = ran(workspace, snakemake)
    assert done >= SAMPLING
    # What was trained meanwhile is what was asked for, and stays.
    assert not [job for job in done if job.startswith(("preprocess", "train"))]
    assert is_true(workspace)


def assert_as_undisturbed(workspace: Workspace, undisturbed: Workspace, params: dict[str, Any]) -> None:
    """Compare all results, weights included, with those of a run of the last scripts and parameters alone."""
    edit(undisturbed)
    undisturbed.write_params(params)
    undisturbed.snakemake()
    expected = results_of(undisturbed)
    assert {name.rsplit("/", 1)[-1] for name in expected} == {"nats.npy", "metrics.json", "samples.h5", "samples.png"}
    assert results_of(workspace) == expected
    for stage in STAGES:
        weights, notes = load_tensors(workspace.folder / f"results/stages/{stage}/checkpoint.safetensors")
        others, other_notes = load_tensors(undisturbed.folder / f"results/stages/{stage}/checkpoint.safetensors")
        assert all(torch.equal(weight, others[name]) for name, weight in weights.items())
        assert json.dumps(notes["recipe"]) == json.dumps(other_notes["recipe"])
