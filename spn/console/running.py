"""logs/running.json: the running jobs, written by Snakemake's process and read by `spn watch`."""

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from spn.console.logs import Mark, mark, read_lines
from spn.files import is_alive

SILENT = 60
"""Seconds without an update after which a Snakemake on another machine counts as gone."""


@dataclass(frozen=True)
class Job:
    """A started job, and the state of its log before it started."""

    name: str
    log: str
    before: Mark | None = None

    def lines(self, root: Path) -> list[str]:
        """Read what the job has written to its log so far."""
        return read_lines(root / self.log, self.before)


def start_job(name: str, log: str, root: Path) -> Job:
    """Note a job that starts now."""
    return Job(name, log, mark(root / log))


def write_running(root: Path, line: str, jobs: Sequence[Job]) -> None:
    """Write the running jobs and the line that sums them up, by renaming."""
    path = root / "logs" / "running.json"
    path.parent.mkdir(exist_ok=True)
    state = {"host": platform.node(), "process": os.getpid(), "line": line, "jobs": [asdict(job) for job in jobs]}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(state, indent=2) + "\n")
    os.replace(temporary, path)


def read_running(root: Path) -> tuple[str, list[Job]] | None:
    """Read the line that sums up the run, and the running jobs; None if no Snakemake runs here."""
    path = root / "logs" / "running.json"
    try:
        state, age = json.loads(path.read_text()), time.time() - path.stat().st_mtime
    except (OSError, ValueError):
        return None
    if not (is_alive(state["process"]) if state["host"] == platform.node() else age < SILENT):
        return None
    jobs = [Job(job["name"], job["log"], Mark(**job["before"]) if job["before"] else None) for job in state["jobs"]]
    return state["line"], jobs


def remove_running(root: Path) -> None:
    """Remove the file: nothing runs any more."""
    (root / "logs" / "running.json").unlink(missing_ok=True)
