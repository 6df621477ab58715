"""Disturbs trainings on a cluster as clusters do, while Snakemake waits for them with the profile for Slurm.

Trainings are stopped (SIGSTOP) before anything is done to them, so that nothing depends on who is faster.
"""

import contextlib
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise

import psutil
from ruamel.yaml import YAML
from slurm import Cluster, Job, wait_for
from workspace import Workspace

from spn.notes import read_tensor_notes

PROFILE = "workflow/profiles/slurm"
# A toy's jobs take seconds.
SOONER = ("--slurm-init-seconds-before-status-checks", "6", "--max-status-checks-per-second", "10")
SNAKEMAKE = ("snakemake", "--profile", PROFILE, *SOONER)
OUTPUT = "snakemake.txt"
SECONDS = 300
"""Longest wait for a step of the story; most take ten on an idle machine."""
MARGIN = 10
"""Steps that a stopped training still has before it, at least: with none, it would end when it is told to stop."""


class Author:
    """Does to the trainings of a workspace what a cluster would."""

    def __init__(self, cluster: Cluster, workspace: Workspace, steps: dict[str, int]) -> None:
        """Take a cluster, a workspace whose commands lead to it, and the steps of each stage that is disturbed."""
        self.cluster, self.workspace, self.steps = cluster, workspace, steps
        self.stopped: dict[str, list[int]] = {stage: [] for stage in steps}

    def stop(self, stage: str) -> Job:
        """Wait until a training has saved more than it has by now; stop it, and give its job."""
        before = self.step(stage)
        self.wait(lambda: self.step(stage) > before, f"{stage} to save more than step {before}")
        trainings = self.trainings(stage)
        self.wait(lambda: self._suspends(trainings), f"{stage} to be stopped outside of MLflow's database")
        jobs = {training.environ()["SLURM_JOB_ID"] for training in trainings}
        assert len(jobs) == 1, f"{stage} is trained by several jobs: {jobs}"
        self.stopped[stage].append(self.step(stage))
        assert self.stopped[stage][-1] <= self.steps[stage] - MARGIN, f"{stage} was as good as trained: {self.stopped}"
        return self.cluster.job_of(trainings[0])

    def step(self, stage: str) -> int:
        """Return the step of the saved state of a training; 0 where there is none."""
        states = list((self.workspace.folder / "runs").glob(f"{stage}-*.safetensors"))
        return read_tensor_notes(states[0])["step"] if states else 0

    def trainings(self, stage: str) -> list[psutil.Process]:
        """List the processes `spn train` of a stage here, with torchrun and srun that started them."""
        return [process for process in psutil.process_iter() if self._trains(process, stage)]

    def cancel(self, job: Job, snakemake: "subprocess.Popen[bytes]") -> None:
        """Cancel a job and wait until it has ended; Snakemake is stopped meanwhile, or it may show half a log."""
        snakemake.send_signal(signal.SIGSTOP)
        self.cluster.run("scancel", job.id)
        self.wait_for_end(job, "CANCELLED")
        snakemake.send_signal(signal.SIGCONT)

    def start_again(self, job: Job) -> None:
        """Let a job that Slurm has queued again start now, and not after some minutes."""
        self.wait_for_state(job, "PENDING")
        # A node that it was on refuses it within the second in which it ended there.
        self.cluster.run("scontrol", "update", f"JobId={job.id}", "StartTime=now+3")
        self.wait_for_state(job, "RUNNING")

    def wait_for_state(self, job: Job, state: str) -> None:
        """Wait until Slurm has it that a job is in a state."""
        query = ("squeue", "-ht", "all", "-j", job.id, "-o", "%T")
        self.wait(lambda: self.cluster.run(*query).strip() == state, f"job {job.id} of {job.name} to be {state}")

    def wait_for_end(self, job: Job, state: str) -> None:
        """Wait until a job has ended in a state; its processes outlive it by seconds, in which they save once more."""
        self.wait_for_state(job, state)
        self.wait(lambda: not self.cluster.runs(job), f"the processes of job {job.id} of {job.name} to end")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds; else say what was waited for, with the ends of the logs."""
        try:
            wait_for(condition, SECONDS)
        except AssertionError as error:
            logs = (self.workspace.folder / OUTPUT, self.cluster.folder / "slurmctld.log")
            ends = (path.read_text(errors="replace")[-3000:] for path in logs if path.exists())
            trainings = [line for stage in self.steps for line in self._told(stage)]
            told = (f"waited in vain for {what}; stopped so far: {self.stopped}", *ends, "\n".join(trainings))
            raise AssertionError("\n\n".join(told)) from error

    def _told(self, stage: str) -> Iterator[str]:
        """Describe the processes that train a stage."""
        for training in self.trainings(stage):
            with contextlib.suppress(psutil.Error):
                job = training.environ().get("SLURM_JOB_ID")
                yield f"{stage}: process {training.pid} of job {job} is {training.status()}"

    def _suspends(self, trainings: list[psutil.Process]) -> bool:
        """Stop processes, unless one is at MLflow's database just now: stopped, it would keep all others out of it."""
        for process in trainings:
            process.suspend()
        database = sqlite3.connect(self.workspace.folder / "mlflow.db", timeout=0, isolation_level=None)
        with contextlib.closing(database), contextlib.suppress(sqlite3.OperationalError):
            database.execute("BEGIN EXCLUSIVE")
            return True
        for process in trainings:
            process.resume()
        return False

    def _trains(self, process: psutil.Process, stage: str) -> bool:
        with contextlib.suppress(psutil.Error):
            return process.cwd() == str(self.workspace.folder) and ("train", stage) in pairwise(process.cmdline())
        return False


def edit(workspace: Workspace, rule: str, **resources: str) -> None:
    """Change what a rule asks for in the profile, as a user would."""
    path, yaml = workspace.folder / PROFILE / "config.yaml", YAML()
    profile = yaml.load(path)
    profile["set-resources"][rule].update(resources)
    with path.open("w") as file:
        yaml.dump(profile, file)


@contextlib.contextmanager
def started(workspace: Workspace, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start Snakemake with the profile; it does not outlive the context."""
    with (
        (workspace.folder / OUTPUT).open("wb") as output,
        subprocess.Popen(
            [*SNAKEMAKE, *arguments],
            cwd=workspace.folder,
            env=workspace.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def said(workspace: Workspace) -> str:
    """Read what Snakemake has said by now."""
    return (workspace.folder / OUTPUT).read_text()
