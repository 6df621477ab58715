"""The tiny experiment on a real Slurm, in one run that meets the faults of clusters; the results are those of none.

What happened is read from Slurm's records, Snakemake's words and the logs.
"""

import contextlib
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from disturbed import SECONDS, SNAKEMAKE, Author, edit, said, started
from experiment import tiny_params
from slurm import Cluster, Job
from tracked import open_at
from workspace import EVERYTHING, Workspace, fresh

from spn.checkpoint import load_tensors
from spn.cli import main
from spn.tracking import load_experiment

# Its jobs start Snakemake again and again, which takes long on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(1800)]

STEPS = {"high": 160, "low": 300}
WAITING = "waiting for another process that trains it now"
AWAY = "Falling back to 'sacct'"
"""What Snakemake says where the scheduler does not answer."""


@dataclass(frozen=True)
class Story:
    """What the faults and the run that met them left."""

    workspace: Workspace
    output: str
    """What the last Snakemake said."""
    jobs: list[Job]
    stopped: dict[str, list[int]]
    """The steps at which the trainings of a stage were stopped, to meet a fault."""

    def of(self, name: str) -> list[Job]:
        """Return the records of a job, the oldest first."""
        return [job for job in self.jobs if job.name == name]

    def slurm_log(self, job: Job) -> str:
        """Read what Slurm has of a job's words."""
        (path,) = (self.workspace.folder / "logs/slurm").rglob(f"{job.id}.log")
        return path.read_text()

    def log(self, job: str) -> str:
        """Read the log of a rule."""
        return (self.workspace.folder / f"logs/{job}.log").read_text()


def disturb_low(author: Author, orphan: Job, snakemake: "subprocess.Popen[bytes]") -> None:
    """Cancel what a killed Snakemake left, then the training that waited for it; kill the node of the next."""
    author.cancel(orphan, snakemake)
    author.cancel(author.stop("low"), snakemake)
    lost = author.stop("low")
    author.cluster.kill_node(lost.node)
    author.start_again(lost)


def disturb_high(author: Author, late: Job) -> None:
    """Leave a training to its time limit, and let a more important job have the node of the next."""
    author.wait_for_end(late, "TIMEOUT")
    preempted = author.stop("high")
    author.cluster.take(preempted.node)
    author.start_again(preempted)


def tell(cluster: Cluster, workspace: Workspace) -> Story:
    """Run the experiment and let the faults happen; one chain is finished before they begin."""
    author = Author(cluster, workspace, STEPS)
    raster = ("results/stages/raster/metrics.json", "results/chains/raster/raster/samples.h5")
    with started(workspace, "--", "results/stages/low/checkpoint.safetensors", *raster) as snakemake:
        orphan = author.stop("low")
        for rule in ("evaluate", "sample_stage"):
            author.wait(lambda rule=rule: f"(Rule: {rule})" in said(workspace), f"the end of {rule}")
        snakemake.kill()
    workspace.run(*SNAKEMAKE, "--unlock")
    with started(workspace) as snakemake:
        late = author.stop("high")
        log = workspace.folder / "logs/train/low.log"
        author.wait(lambda: WAITING in log.read_text(errors="replace"), "low to wait for the orphan")
        cluster.kill_controller()
        author.wait(lambda: AWAY in said(workspace), "Snakemake to miss the scheduler")
        cluster.start_controller()
        with ThreadPoolExecutor() as pool:
            low = pool.submit(disturb_low, author, orphan, snakemake)
            for disturbing in (low, pool.submit(disturb_high, author, late)):
                disturbing.result()
        assert snakemake.wait(3 * SECONDS) == 0, said(workspace)
    print("STOPPED", author.stopped, flush=True)
    return Story(workspace, said(workspace), cluster.jobs(), author.stopped)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The experiment, finished in spite of everything."""
    folder = tmp_path_factory.mktemp("cluster")
    workspace = fresh(folder / "project")
    params = tiny_params()
    for stage, steps in STEPS.items():
        params["stages"][stage]["training"] |= {"steps": steps, "validate_every": 5}
    workspace.write_params(params)
    edit(workspace, "train", gpu="dict(high=2).get(wildcards.stage, 1)")
    edit(workspace, "train", runtime="dict(high=2).get(wildcards.stage, 720) * attempt ** 2")
    edit(workspace, "evaluate", mem_mb="dict(high=200).get(wildcards.stage, 16000) * attempt ** 4")
    with Cluster(folder / "slurm", num_nodes=3) as cluster:
        return tell(cluster, replace(workspace, variables=cluster.variables))


@pytest.fixture(scope="module")
def whole(story: Story) -> Path:
    """The stage `low`, trained and evaluated here, undisturbed."""
    folder = story.workspace.folder / "whole"
    folder.mkdir()
    given = ["low", "--data", "data/digits/S2.h5", "--output", "whole"]
    with contextlib.chdir(story.workspace.folder):
        open_at("sqlite:///whole/mlflow.db", Path("whole/mlflow.json"))
        assert main(["train", *given, "--experiment", "whole/mlflow.json", "--runs", "whole/runs"]) == 0
        assert main(["evaluate", *given, "--checkpoint", "whole/checkpoint.safetensors"]) == 0
    return folder


def test_every_rule_writes_its_log_and_slurms_are_kept(story: Story) -> None:
    logs = story.workspace.folder / "logs"
    written = {str(path.relative_to(logs).with_suffix("")) for path in logs.rglob("*.log")}
    assert {name for name in written if not name.startswith("slurm/")} == EVERYTHING
    assert {path.stem for path in (logs / "slurm").rglob("*.log")} == {
        job.id for job in story.jobs if job.name != "urgent"
    }


def test_stages_train_at_the_same_time_on_different_nodes(story: Story) -> None:
    assert any(
        overlap(high.times, low.times) and high.node != low.node
        for high in story.of("train/high")
        for low in story.of("train/low")
    )


def overlap(one: tuple[datetime, datetime], other: tuple[datetime, datetime]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def test_a_stage_given_two_gpus_trains_in_two_processes_on_one_node(story: Story) -> None:
    for stage, gpus in (("high", 2), ("low", 1)):
        assert {job.gpus for job in story.of(f"train/{stage}")} == {gpus}
        assert ("process 2 of 2" in story.log(f"train/{stage}")) == (gpus == 2)
    assert all(re.fullmatch(r"node\d", job.node) for job in story.of("train/high"))
    assert {job.gpus for job in story.of("report")} == {0}


def test_every_run_is_in_mlflow_and_finished(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(story.workspace.folder)
    experiment = load_experiment(Path("mlflow/experiment.json"))
    runs = experiment.client.search_runs([experiment.id])
    assert sorted(run.info.run_name for run in runs) == ["depth", "high", "low", "raster", "raster"]
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_the_results_are_those_of_an_undisturbed_run(story: Story, whole: Path) -> None:
    here = story.workspace.folder / "results/stages/low"
    weights, expected = (load_tensors(folder / "checkpoint.safetensors")[0] for folder in (here, whole))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert np.array_equal(np.load(here / "nats.npy"), np.load(whole / "nats.npy"))


def test_nothing_is_left_to_do_for_a_run_without_the_cluster(story: Story) -> None:
    local = replace(story.workspace, variables={})
    assert local.snakemake().ran == {"reproduce"}


def test_what_a_killed_snakemake_left_running_is_waited_for(story: Story) -> None:
    orphan, heir, *_ = story.of("train/low")
    (first, ended), (second, last) = orphan.times, heir.times
    assert first < second < ended < last
    assert orphan.id != heir.id


def test_a_cancelled_job_is_tried_again(story: Story) -> None:
    _, first, second, _ = story.of("train/low")
    assert first.state.startswith("CANCELLED")
    assert first.id != second.id
    assert f"SLURM-job '{first.id}' failed, SLURM status is: 'CANCELLED'" in story.output
    # Snakemake shows the log of what failed.
    assert re.search(r"stage low: stopped by SIGTERM and saved after step \d+", story.output)
    assert re.search(r"JOB \d+ ON node\d CANCELLED AT", story.slurm_log(first))


def test_a_job_whose_node_is_lost_is_queued_again_by_slurm(story: Story) -> None:
    *_, lost, last = story.of("train/low")
    assert (lost.state, last.state) == ("NODE_FAIL", "COMPLETED")
    assert lost.id == last.id
    assert lost.node != last.node
    assert f"SLURM-job '{last.id}' failed" not in story.output


def test_a_preempted_job_is_queued_again_by_slurm(story: Story) -> None:
    *_, preempted, last = story.of("train/high")
    assert (preempted.state, last.state) == ("PREEMPTED", "COMPLETED")
    assert preempted.id == last.id
    assert f"SLURM-job '{last.id}' failed" not in story.output


def test_a_training_goes_on_where_it_was_stopped(story: Story) -> None:
    for stage, steps in STEPS.items():
        assert all(0 < before < after for before, after in pairwise(story.stopped[stage]))
        begun = re.search(rf" (\d+)/{steps} ", story.log(f"train/{stage}"))
        assert begun is not None
        assert int(begun[1]) >= story.stopped[stage][-1]


def test_a_job_out_of_time_is_tried_again_with_more(story: Story) -> None:
    first, second, _ = story.of("train/high")
    assert first.state == "TIMEOUT"
    assert (first.minutes, second.minutes) == (2, 8)
    assert f"SLURM-job '{first.id}' failed, SLURM status is: 'TIMEOUT'" in story.output
    assert "DUE TO TIME LIMIT" in story.slurm_log(first)


def test_a_job_out_of_memory_is_tried_again_with_more(story: Story) -> None:
    first, second = story.of("evaluate/high")
    assert (first.state, second.state) == ("FAILED", "COMPLETED")
    assert (first.megabytes, second.megabytes) == (200, 3200)
    assert f"SLURM-job '{first.id}' failed" in story.output
    assert "exceeded memory limit" in story.slurm_log(first)


def test_snakemake_outlives_the_scheduler(story: Story) -> None:
    assert AWAY in story.output
    # What ran then was not taken for lost, and submitted again.
    assert [len({job.id for job in story.of(f"train/{stage}")}) for stage in STEPS] == [2, 3]


def test_a_retried_job_is_told_as_no_failure(story: Story) -> None:
    *_, last = story.output.splitlines()
    assert "spn: error: " not in story.output.split("Complete log(s)")[-1], last


def test_the_reason_of_a_failed_job_is_the_last_line(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("reason")  # a short name: Slurm puts sockets there
    workspace = fresh(folder / "project")
    (workspace.folder / "runs").write_text("in the way")
    with Cluster(folder / "slurm", num_nodes=1) as cluster:
        failed = replace(workspace, variables=cluster.variables).run(
            *SNAKEMAKE, "--retries", "0", "--", "results/stages/low/checkpoint.safetensors", fails=True
        )
    *_, last = failed.output.splitlines()
    assert last.startswith("spn: error: train low: ")
    assert "runs" in last
    assert last.endswith(" (logs/train/low.log)")
    assert re.search(r"^\[..:..\] 1 of 2 jobs done", failed.output, re.MULTILINE)
