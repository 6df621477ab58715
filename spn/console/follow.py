"""Listens to Snakemake's logger, prints progress, and says at the end of a run why jobs failed."""

import atexit
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spn.console.estimate import Planned
from spn.console.logs import ERROR, INTERRUPTED, error_in, last_word
from spn.console.progress import Progress, Run, tell
from spn.console.running import Job, start_job

ALWAYS = frozenset({"reproduce"})
"""Rules that make no file, so that they always run when requested."""

NESTED = frozenset({"ablations", "compare", "orders"})
"""Rules that run another Snakemake, which reports its own progress."""


def follow(workflow: Any) -> None:
    """Follow the run of a `snakemake.workflow.Workflow`, in its main process; called by the Snakefile."""
    if not workflow.is_main_process:
        return
    is_quiet = any(each.name == "ALL" for each in workflow.output_settings.quiet or ())
    follower = Follower(Path.cwd(), lambda: _run_of(workflow), is_quiet)
    logging.getLogger("snakemake.logging").addHandler(follower)
    # After Snakemake's own last line.
    atexit.register(follower.end)


def _run_of(workflow: Any) -> Run | None:
    """Read Snakemake's plan; None under `--touch`."""
    if workflow.touch:
        return None
    numbers = {job: job.jobid for job in workflow.dag.needrun_jobs()}
    jobs = {
        number: Planned(
            job.rule.name,
            job.wildcards_dict.get("stage") or job.wildcards_dict.get("first_stage"),
            tuple(numbers[other] for other in workflow.dag.job_dependencies(job) if other in numbers),
        )
        for job, number in numbers.items()
    }
    jobs_of = {number: job for job, number in numbers.items()}
    is_remote = not workflow.local_exec
    slots = workflow.nodes if is_remote else workflow.cores
    return Run(jobs, slots, is_remote, lambda number: workflow.dag.finished(jobs_of[number]))


@dataclass(frozen=True)
class Failure:
    """A failed job, and the cluster's message about it."""

    job: Job
    message: str

    def reason(self, root: Path) -> str:
        """Say why in one line: an error in the job's log, else the cluster's message, else the end of the log."""
        lines = self.job.lines(root)
        if error_in(lines) == INTERRUPTED:
            return "interrupted; the same command continues"
        return error_in(lines) or self.message or last_word(lines)


class Follower(logging.Handler):
    """A handler of Snakemake's records.

    An error in here must not harm the workflow: it is printed in one line, and ends the display of progress.
    """

    def __init__(self, root: Path, run_of: Callable[[], Run | None], is_quiet: bool = False) -> None:
        super().__init__()
        self._root, self._run_of, self._is_quiet = root, run_of, is_quiet
        self._jobs: dict[int, Job] = {}
        self._failures: dict[int, Failure] = {}
        self._progress: Progress | None = None
        self._is_begun, self._missing = False, ""

    def emit(self, record: logging.LogRecord) -> None:
        """Process a record if it concerns a job."""
        try:
            self._take(str(getattr(record, "event", "")), record)
        except Exception as error:
            print(f"spn: progress is no longer shown: {error!r}", file=sys.stderr)
            self._end_progress()

    def end(self) -> None:
        """Say why each job failed, except those whose retry succeeded."""
        self._end_progress()
        if self._missing:  # Snakemake's message names no job
            print(f"{ERROR}{self._missing}", file=sys.stderr)
        for failure in self._failures.values():
            where = f" ({failure.job.log})" if failure.job.log else ""
            print(f"{ERROR}{failure.job.name}: {failure.reason(self._root)}{where}", file=sys.stderr)

    def _take(self, event: str, record: Any) -> None:
        if (progress := self._progress) is not None:
            progress.look()
        if event == "job_started" and not self._is_begun:
            self._is_begun = True
            self._begin()
        elif event == "job_info":
            name = " ".join([record.rule_name, *map(str, record.wildcards.values())])
            job = self._jobs[record.jobid] = start_job(name, record.log[0] if record.log else "", self._root)
            self._failures.pop(record.jobid, None)  # it is tried again
            if progress is not None:
                progress.start(record.jobid, job, record.threads)
        elif event == "error" and record.exception == "MissingOutputException":
            self._missing = " ".join(record.getMessage().split())
        elif event == "job_error":
            job = self._jobs.get(record.jobid) or Job(record.rule_name, record.log[0] if record.log else "")
            failure = self._failures[record.jobid] = Failure(job, _first_sentence(record.rule_msg or ""))
            if progress is not None:
                progress.fail(record.jobid)
                progress.say(f"{job.name} failed: {failure.reason(self._root)}")

    def _begin(self) -> None:
        if (run := self._run_of()) is None:
            return
        rules = {job.rule for job in run.jobs.values()}
        if not rules <= ALWAYS | NESTED:
            self._progress = Progress(run, self._root, self._is_quiet)
        elif rules <= ALWAYS and not self._is_quiet:
            tell("nothing to do: every result exists, and is checked once more")

    def _end_progress(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.end()


def _first_sentence(text: str) -> str:
    """Return the first sentence of a cluster's message, as "SLURM-job '5' failed, SLURM status is: 'TIMEOUT'"."""
    sentence = text.split(". ")[0]
    return "" if sentence.startswith("For further error details") else sentence
