"""Shows the progress of one Snakemake run: a line whenever a job ends, and every half minute while jobs run."""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from spn.console.estimate import Estimate, Planned, Running
from spn.console.logs import Bar, read_bar
from spn.console.plan import NoPlanError, Plan
from spn.console.running import Job, remove_running, write_running

EVERY = 30.0
"""Maximum seconds between two lines."""

TICK = 5.0
"""Seconds between two looks at the logs of running jobs."""

PATIENCE = 15.0
"""Seconds before `spn plan` is started; a shorter run needs no estimate."""

NAMED = 4
"""Maximum number of running jobs that a line names."""


@dataclass(frozen=True)
class Run:
    """Snakemake's plan, with `slots` threads (or, on a cluster, jobs) at once."""

    jobs: Mapping[int, Planned]
    slots: int
    is_remote: bool
    is_done: Callable[[int], bool]
    """Asks Snakemake whether a job is done; its logger says so too, but not under `--quiet progress`."""


class Progress:
    """Keeps track of running and finished jobs, and prints a summary; thread-safe."""

    def __init__(self, run: Run, root: Path, is_quiet: bool) -> None:
        self._run, self._root, self._is_quiet = run, root, is_quiet
        self._guard, self._ended = threading.RLock(), threading.Event()
        self._estimate = Estimate(run.jobs, run.slots)
        self._running: dict[int, tuple[Job, float]] = {}
        self._plan: Plan | None = None
        self._begun = self._told = time.monotonic()
        threading.Thread(target=self._look_on, daemon=True).start()

    def start(self, number: int, job: Job, threads: int) -> None:
        """Note that a job was started, or submitted."""
        with self._guard:
            self._running[number] = job, time.monotonic()
            self._estimate.threads[self._run.jobs[number].rule] = threads
            self._write()

    def look(self) -> None:
        """Note which jobs are done, and say so."""
        with self._guard:
            done = [number for number in self._running if self._run.is_done(number)]
            for number in done:
                job, since = self._running.pop(number)
                self._estimate.finish(number, time.monotonic() - since, read_bar(job.lines(self._root)))
            if done:
                self._tell()

    def fail(self, number: int) -> None:
        """Note that a job has failed; it may be started again."""
        with self._guard:
            self._running.pop(number, None)
            self._write()

    def end(self) -> None:
        """Stop, and remove the files of this run."""
        self._ended.set()
        with self._guard:
            if self._plan is not None:
                self._plan.stop()
            remove_running(self._root)

    def say(self, text: str) -> None:
        """Print a line with the time of day, unless quiet."""
        if not self._is_quiet:
            tell(text)

    def _look_on(self) -> None:
        """Look at the running jobs periodically; an error in here is printed and ends it."""
        try:
            while not self._ended.wait(TICK):
                with self._guard:
                    if self._running and not self._ended.is_set():
                        self._plan_when_due()
                        self.look()
                        if time.monotonic() - self._told >= EVERY:
                            self._tell()
                        else:
                            self._write()
        except Exception as error:
            self.say(f"progress is no longer shown: {error!r}")

    def _plan_when_due(self) -> None:
        """Read the plan if there is one; start `spn plan` once a training has run for a while."""
        if self._estimate.seconds is not None or self._is_quiet:
            return
        try:
            self._plan = self._plan or Plan(self._root)
            if (seconds := self._plan.seconds()) is not None:
                self._estimate.seconds = seconds
            elif not self._plan.is_started and self._trains() and time.monotonic() - self._begun > PATIENCE:
                self._plan.start()
        except (NoPlanError, OSError, ValueError, KeyError) as error:
            self._estimate.seconds = {}
            self.say(f"no estimate of the time left, because spn plan failed: {error}")

    def _trains(self) -> bool:
        return any(job.rule == "train" and number not in self._estimate.done for number, job in self._run.jobs.items())

    def _tell(self) -> None:
        self._told = time.monotonic()
        self.say(self._write())

    def _write(self) -> str:
        """Write the running jobs for `spn watch`; return the line that sums them up."""
        bars = {number: read_bar(job.lines(self._root)) for number, (job, _) in self._running.items()}
        line = self._line(bars)
        write_running(self._root, line, [job for job, _ in self._running.values()])
        return line

    def _line(self, bars: Mapping[int, Bar | None]) -> str:
        jobs, done = len(self._run.jobs), len(self._estimate.done)
        if done == jobs:
            return f"all {jobs} jobs done in {duration(time.monotonic() - self._begun)}"
        parts = [f"{done} of {jobs} jobs done"]
        if bars:
            names = [self._name(number, bar) for number, bar in list(bars.items())[:NAMED]]
            more = [f"{len(bars) - NAMED} more"] if len(bars) > NAMED else []
            parts.append(f"{len(bars)} running ({', '.join([*names, *more])})")
        left = self._left(bars)
        return ", ".join(parts if left is None else [*parts, f"about {duration(left)} left"])

    def _name(self, number: int, bar: Bar | None) -> str:
        job, _ = self._running[number]
        waits = self._run.is_remote and not job.lines(self._root)
        return job.name + (" waiting" if waits else "" if bar is None else f" {bar.percent} %")

    def _left(self, bars: Mapping[int, Bar | None]) -> float | None:
        """Estimate the seconds left; None without a plan, or on a cluster until one of its jobs was measured."""
        for number, bar in bars.items():
            self._estimate.see(number, bar)
        if not self._estimate.seconds or (self._run.is_remote and not self._estimate.work):
            return None
        now = time.monotonic()
        running = {number: Running(now - self._running[number][1], bar) for number, bar in bars.items()}
        return self._estimate.left(running)


def tell(text: str) -> None:
    """Print a line with the time of day."""
    print(f"[{time.strftime('%H:%M')}] {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Write a time with the precision that an estimate deserves."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{0 if seconds >= 10 * size or unit == 'min' else 1}f} {unit}"
    return f"{max(1, round(seconds))} s"
