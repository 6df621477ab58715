"""A copy of the project with the tiny experiment, for the tests that start Snakemake and DVC.

What ran is told by the files that running leaves: every job writes the log named after it, and every training that
takes a step saves its state under runs/. Snakemake's own words are not needed for it.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from copies import copy_experiment
from experiment import tiny_params, write_params

ROOT = Path(__file__).parents[2]
PROJECT = [".dvc/config", ".dvc/.gitignore", ".dvc/plots", ".dvcignore", ".gitignore", "Snakefile", "dvc.yaml"]
PROJECT += ["pyproject.toml", "sources/README.md", "spn", "workflow"]
OWN = ("DVC_", "GIT_", "MLFLOW_", "SNAKEMAKE_")
"""Variables by which a user's settings would reach the tools."""

SECONDS = 600
"""Longest wait for a tool; everything at once takes one minute on two idle cores."""


STAGES = ("raster", "high", "low")
CHAIN = ("high", "low")
EVERYTHING = {
    "preprocess/digits/S1",
    "preprocess/digits/S2",
    *(f"{rule}/{stage}" for rule in ("train", "evaluate") for stage in STAGES),
    "sample_stage/raster/raster",
    "sample_stage/depth/high",
    "sample_stage/depth/low",
    *(f"{rule}/{chain}" for rule in ("summarise", "export", "record") for chain in ("raster", "depth")),
    "report",
    "reproduce",
}
AFTER_LOW = {
    "train/low",
    "evaluate/low",
    "sample_stage/depth/low",
    "summarise/depth",
    "export/depth",
    "record/depth",
    "report",
    "reproduce",
}
"""The training of the stage `low`, and what depends on it."""


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it did: jobs by the names of their logs, and stages that took training steps."""

    status: int
    output: str
    ran: set[str]
    trained: set[str]


@dataclass(frozen=True)
class Workspace:
    """A folder in which the tools run with the code that lies there."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    """More variables for the tools."""

    def copy(self, folder: Path) -> "Workspace":
        """Copy everything, file times included, as Snakemake goes by them; the copy's store is one made there."""
        return replace(self, folder=copy_experiment(self.folder, folder))

    @property
    def environment(self) -> dict[str, str]:
        """Variables for the tools: this environment's programs, this folder's code, and none of a user's settings."""
        settings = str(self.folder.with_name(f"{self.folder.name}-settings"))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
        return inherited | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": settings,
            "XDG_CONFIG_HOME": settings,
            "DVC_SITE_CACHE_DIR": settings,
            "DVC_GLOBAL_CONFIG_DIR": settings,
            "DVC_SYSTEM_CONFIG_DIR": settings,
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@localhost",
            **self.variables,
        }

    def run(self, *command: str, fails: bool = False) -> Done:
        """Run a command; it must succeed, or fail where `fails` says so."""
        logs, states = self._logs(), self._states()
        process = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert (process.returncode != 0) == fails, f"{' '.join(command)}: {process.returncode}\n{process.stdout}"
        return Done(
            process.returncode,
            process.stdout,
            ran={job for job, written in self._logs().items() if logs.get(job) != written},
            trained={stage for stage, written in self._states().items() if states.get(stage) != written},
        )

    def snakemake(self, *arguments: str, fails: bool = False) -> Done:
        """Run Snakemake on two cores; without a target, it makes everything."""
        return self.run("snakemake", "--cores", "2", *arguments, fails=fails)

    def plan(self) -> set[str]:
        """Name the jobs that Snakemake would run to make everything."""
        return set(re.findall(r"^    log: logs/(\S+)\.log", self.snakemake("--dry-run").output, re.MULTILINE))

    def write_params(self, params: dict[str, Any]) -> None:
        """Replace params.yaml."""
        write_params(self.folder, params)

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace the first place where a file has a text."""
        file = self.folder / path
        text = file.read_text()
        assert old in text, path
        file.write_text(text.replace(old, new, 1))

    def append(self, path: str, text: str) -> None:
        """Append to a file, which must be there."""
        with (self.folder / path).open("r+") as file:
            file.seek(0, os.SEEK_END)
            file.write(text)

    def commit(self) -> None:
        """Commit everything that Git does not ignore."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "state")

    def read(self, pattern: str) -> dict[str, bytes]:
        """Read files, by their paths."""
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in sorted(self.folder.glob(pattern))}

    def _logs(self) -> dict[str, int]:
        folder = self.folder / "logs"
        return {
            str(path.relative_to(folder).with_suffix("")): path.stat().st_mtime_ns for path in folder.rglob("*.log")
        }

    def _states(self) -> dict[str, list[tuple[str, int]]]:
        states: dict[str, list[tuple[str, int]]] = {}
        for path in sorted((self.folder / "runs").glob("*.safetensors")):
            states.setdefault(path.name.rsplit("-", 1)[0], []).append((path.name, path.stat().st_mtime_ns))
        return states


def fresh(folder: Path) -> Workspace:
    """Copy the project to a new folder, with the tiny experiment, in which nothing has run."""
    workspace = Workspace(folder)
    for name in PROJECT:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    workspace.write_params(tiny_params())
    return workspace


@cache
def finished(session: Path) -> tuple[Workspace, Done]:
    """Make a repository below `session`, the folder of all tests, in which `dvc repro` has run.

    It is made once: a test that changes it makes a copy.
    """
    workspace = fresh(session / "finished" / "project")
    workspace.run("git", "init", "--quiet")
    workspace.commit()
    done = workspace.run("dvc", "repro")
    workspace.commit()
    return workspace, done


def with_steps(stage: str, steps: int, validate_every: int = 3) -> dict[str, Any]:
    """Return the tiny experiment with another training of one stage."""
    params = tiny_params()
    params["stages"][stage]["training"] |= {"steps": steps, "validate_every": validate_every}
    return params
