"""A stage over two nodes of a real Slurm, preempted and with a node lost in one run; the loss is that of one process.

Both faults are of the second node, because the first one runs the job's script, as the node of any job does.
"""

import contextlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from disturbed import SECONDS, Author, edit, said, started
from experiment import read_history, tiny_params
from slurm import Cluster, Job
from tracked import open_at
from workspace import fresh

from spn.checkpoint import load_tensors
from spn.cli import main

# Its jobs start Snakemake again and again, which takes long on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(1800)]

STEPS = 120
TRAINED = "results/stages/low"
TWO = "dict(low=2).get(wildcards.stage, 1)"
"""Two nodes for one stage, and two GPUs on them together."""


class Story:
    """What happened to the stage `low`; its log is read before the next job overwrites it."""

    def __init__(self, cluster: Cluster, author: Author) -> None:
        """Train the stage, let a more important job have a node, and kill one of the next two."""
        self.cluster, self.author, self.folder = cluster, author, author.workspace.folder
        with started(author.workspace, "--", f"{TRAINED}/checkpoint.safetensors") as snakemake:
            preempted = author.stop("low")
            cluster.take(self.second_node(preempted))
            self.end(preempted)
            self.preempted, self.saved = self.log(), author.step("low")
            author.start_again(preempted)
            # Its log comes through srun, which is stopped too.
            author.wait(lambda: first_step(self.log()) >= self.saved, f"the log of step {self.saved}")
            self.resumed = self.log()
            lost = author.stop("low")
            training = [process.environ() for process in author.trainings("low")]
            self.places = [variables["SLURMD_NODENAME"] for variables in training if "RANK" in variables]
            cluster.kill_node(self.second_node(lost))
            for process in author.trainings("low"):
                process.resume()
            self.end(lost)
            author.start_again(lost)
            assert snakemake.wait(3 * SECONDS) == 0, said(author.workspace)
        self.last, self.left = self.log(), author.trainings("low")
        self.jobs = [job for job in cluster.jobs() if job.name == "train/low"]

    def log(self) -> str:
        """Read the log of the training."""
        return (self.folder / "logs/train/low.log").read_text()

    def end(self, job: Job) -> None:
        """Wait until Slurm has queued a job again, and all its processes have ended."""
        self.author.wait_for_state(job, "PENDING")
        self.author.wait(lambda: not self.author.trainings("low"), "the trainings to end")

    def second_node(self, job: Job) -> str:
        """Return the second node of a running job."""
        nodes = self.cluster.run("squeue", "-h", "-j", job.id, "-o", "%N").strip()
        _, second = self.cluster.run("scontrol", "show", "hostnames", nodes).split()
        return second


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The stage, trained by one process in the folder `whole`, and on two nodes in spite of everything."""
    folder = tmp_path_factory.mktemp("nodes")  # a short name: Slurm puts sockets there
    workspace = fresh(folder / "project")
    params = tiny_params()
    params["stages"]["low"]["training"] |= {"steps": STEPS, "validate_every": 5}
    params["stages"]["low"]["model"]["dropout"] = 0.0  # which every process draws for itself
    workspace.write_params(params)
    edit(workspace, "train", gpu=TWO, nodes=TWO)
    data = "data/digits/S2.h5"
    with contextlib.chdir(workspace.folder):
        assert main(["preprocess", "--scale-factor", "2", "--output", data]) == 0
        Path("whole").mkdir()
        open_at("sqlite:///whole/mlflow.db", Path("whole/mlflow.json"))
        whole = ["--output", "whole", "--experiment", "whole/mlflow.json", "--runs", "whole/runs"]
        assert main(["train", "low", "--data", data, *whole]) == 0
    with Cluster(folder / "slurm", num_nodes=3) as cluster:
        return Story(cluster, Author(cluster, replace(workspace, variables=cluster.variables), {"low": STEPS}))


def test_two_nodes_train_as_one_process(story: Story) -> None:
    for job in story.jobs:
        assert re.fullmatch(r"node\[\d[-,]\d\]", job.node)
        assert job.gpus == 2
    assert len(story.places) == len(set(story.places)) == 2
    assert "process 2 of 2" in story.last
    ours, whole = (read_history(story.folder / place / "history.csv") for place in (TRAINED, "whole"))
    assert len(ours) == len(whole)
    for row, expected in zip(ours, whole, strict=True):
        assert row.keys() == expected.keys()
        for key in row.keys() - {"images_per_second", "training_seconds"}:
            assert row[key] == pytest.approx(expected[key], rel=1e-5), (key, row["step"])
    weights, expected_weights = (
        load_tensors(story.folder / place / "checkpoint.safetensors")[0] for place in (TRAINED, "whole")
    )
    for name, weight in expected_weights.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-4)


def test_a_job_that_loses_one_of_two_nodes_to_another_resumes_where_both_stopped(story: Story) -> None:
    preempted, again, _ = story.jobs
    assert preempted.state == "PREEMPTED"
    assert preempted.id == again.id
    assert story.saved > story.author.stopped["low"][0]
    assert story.preempted.count(f"stopped by SIGTERM and saved after step {story.saved};") == 2
    assert first_step(story.resumed) == story.saved


def test_a_job_one_of_whose_two_nodes_is_lost_ends_and_resumes(story: Story) -> None:
    _, lost, last = story.jobs
    assert (lost.state, last.state) == ("NODE_FAIL", "COMPLETED")
    assert lost.id == last.id
    assert first_step(story.last) >= story.author.stopped["low"][1] > story.saved


def first_step(log: str) -> int:
    """Return the step that the progress bar in a log begins with; -1 before there is one."""
    shown = re.search(rf" (\d+)/{STEPS} ", log)
    return int(shown[1]) if shown else -1


def test_no_process_is_left(story: Story) -> None:
    assert story.left == []
