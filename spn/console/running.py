"""logs/running.json: the jobs that run now, as the Snakemake that runs them says; `spn watch` reads it."""

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
"""Seconds without a sign of life after which a Snakemake on another machine is taken for gone."""


@dataclass(frozen=True)
class Job:
    """A job that was started, and the state of its log before."""

    name: str
    log: str
    before: Mark | None = None

    def lines(self, root: Path) -> list[str]:
        """Read what the job has written to its log by now."""
        return read_lines(root / self.log, self.before)


def start_job(name: str, log: str, root: Path) -> Job:
    """Note a job that starts now."""
    return Job(name, log, mark(root / log))


def write_running(root: Path, line: str, jobs: Sequence[Job]) -> None:
    """Write what runs, by renaming, with one line on the whole."""
    path = root / "logs" / "running.json"
    path.parent.mkdir(exist_ok=True)
    state = {"host": platform.node(), "process": os.getpid(), "line": line, "jobs": [asdict(job) for job in jobs]}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(state, indent=2) + "\n")
    os.replace(temporary, path)


def read_running(root: Path) -> tuple[str, list[Job]] | None:
    """Read the line on the whole and the jobs that run; None where no Snakemake runs here."""
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
    """Say that nothing runs any more."""
    (root / "logs" / "running.json").unlink(missing_ok=True)
