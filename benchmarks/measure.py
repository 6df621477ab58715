"""Timing primitives: warm-up, interleaved repetitions, median and range."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

Run = Callable[[], object]
"""A piece of work; its return value is kept until it has been timed."""
Timer = Callable[[Run], float]
"""Does a piece of work once and returns its seconds."""


@dataclass(frozen=True)
class Spread:
    """Median and range of repeated measurements."""

    median: float
    low: float
    high: float

    def times(self, factor: float) -> "Spread":
        """Return the spread in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)


def spread(values: Iterable[float]) -> Spread:
    """Summarise repetitions."""
    values = list(values)
    return Spread(statistics.median(values), min(values), max(values))


def cpu_seconds(run: Run) -> float:
    """Time by the CPU time of this process, on which other processes have less effect."""
    start = time.process_time()
    result = run()
    seconds = time.process_time() - start
    del result
    return seconds


def cuda_seconds(run: Run) -> float:
    """Time by CUDA events; this includes launches from Python, because the second event waits for them."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    result = run()
    end.record()
    end.synchronize()
    del result
    return start.elapsed_time(end) / 1000


def timer_of(device: torch.device) -> Timer:
    """Choose the timer of a device."""
    return cuda_seconds if device.type == "cuda" else cpu_seconds


def interleaved(
    runs: Mapping[str, Run], repetitions: int, timer: Timer = cpu_seconds, warm_up: int = 1
) -> dict[str, list[float]]:
    """Time every run in turn, A B A B ..., so that anything that slows the machine down affects all; return seconds."""
    for _ in range(warm_up):
        for run in runs.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            seconds[name].append(timer(run))
    return seconds


def ratios(numerators: Iterable[float], denominators: Iterable[float]) -> list[float]:
    """Divide repetition by repetition."""
    return [above / below for above, below in zip(numerators, denominators, strict=True)]
