"""Estimates how long the remaining jobs take, from `spn plan` and from measurements in this run."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from spn.console.logs import Bar

Seconds = Mapping[str, Mapping[str, float | None]]
"""By stage and rule: `{"low": {"train": 20.0, "evaluate": None, "sample_stage": 3.0}}`; None if not known."""

START = 5.0
"""Seconds that a job takes beside its planned work, mostly for imports; used until some jobs were measured."""


@dataclass(frozen=True)
class Planned:
    """A job of Snakemake's plan, which starts after the jobs `after`."""

    rule: str
    stage: str | None = None
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class Running:
    """A running job, and its progress bar if it shows one yet."""

    elapsed: float
    bar: Bar | None = None


@dataclass
class Estimate:
    """The plan of one Snakemake run, which uses `slots` threads at once, and what was measured so far."""

    jobs: Mapping[int, Planned]
    slots: int
    seconds: Seconds | None = None
    """Times of `spn plan`; None until they are known, empty if the plan failed."""
    threads: dict[str, int] = field(default_factory=dict)
    """Slots that a running job takes, by rule; one until such a job was seen."""
    done: set[int] = field(default_factory=set)
    work: dict[int, float] = field(default_factory=dict)
    """Seconds of a whole job as its progress bar predicts them, for jobs that showed one."""
    beside: list[float] = field(default_factory=list)
    """Seconds that finished jobs took beside what their bars counted."""

    def finish(self, job: int, elapsed: float, bar: Bar | None) -> None:
        """Note that a job is done and how long it took; a job without a bar had no work left, or shows none."""
        self.done.add(job)
        self.see(job, bar)
        self.beside.append(max(0.0, elapsed - (bar.elapsed if bar else 0.0)))

    def see(self, job: int, bar: Bar | None) -> None:
        """Note how fast a job works."""
        if bar is not None and bar.total is not None:
            self.work[job] = bar.total

    def left(self, running: Mapping[int, Running]) -> float:
        """Estimate the seconds until all jobs are done.

        This is the longest chain of dependent jobs, or all work divided by the slots, whichever is longer.
        """
        todo = {number: job for number, job in self.jobs.items() if number not in self.done}
        times = {number: self._seconds_of(number, running.get(number)) for number in todo}
        ends: dict[int, float] = {}

        def end(number: int) -> float:
            if number not in ends:
                before = [end(other) for other in todo[number].after if other in todo]
                ends[number] = times[number] + max(before, default=0.0)
            return ends[number]

        taken = (times[number] * min(self.threads.get(job.rule, 1), self.slots) for number, job in todo.items())
        return max([sum(taken) / self.slots, *map(end, todo)])

    def _seconds_of(self, number: int, running: Running | None) -> float:
        """Estimate the seconds left of a job: from its bar, or else from the plan, corrected by measurements."""
        start = sum(self.beside) / len(self.beside) if self.beside else START
        whole = self._planned(number) * self._ratio(self.jobs[number].rule) + start
        if running is None:
            return whole
        if running.bar is None:
            return max(whole - running.elapsed, 1.0)
        return whole * (1 - running.bar.percent / 100) if running.bar.left is None else running.bar.left

    def _planned(self, number: int) -> float:
        job = self.jobs[number]
        return (self.seconds or {}).get(job.stage or "", {}).get(job.rule) or 0.0

    def _ratio(self, rule: str) -> float:
        """Return measured over planned seconds, of this rule's jobs, or of all jobs if none of these was measured."""
        for rules in ({rule}, {job.rule for job in self.jobs.values()}):
            seen = [number for number in self.work if self.jobs[number].rule in rules and self._planned(number)]
            if seen:
                return sum(self.work[number] for number in seen) / sum(map(self._planned, seen))
        return 1.0
