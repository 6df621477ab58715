"""Measures the speed of the machine by a few seconds of training and sampling small networks.

Three coefficients are fitted to the measurements. NOTE: timing three real steps of each stage would be more accurate,
but on a CPU those of presets/cifar10.yaml take a minute and a half at a batch size of two, and a stage may not fit in
memory at all.
"""

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from spn.config import AdamW, SpnSection, StageSection, TrainingSection, tile
from spn.generation import SAMPLERS, choosing, sample_stage
from spn.machine import onednn_matmul
from spn.planning.cost import sampling_work, step_cost
from spn.planning.step import Step
from spn.planning.work import Work
from spn.stages import Stage, build_stage

Precision: TypeAlias = Literal["float32", "bfloat16"]

REPEATS = 3
"""Timed runs after one to warm up; the median counts."""

BUSY = 64
"""Factor on the slices per step on a GPU, because small batches would leave it idle."""


@dataclass(frozen=True)
class Probe:
    """A small network, and the images it is timed on."""

    width: int
    image_size: int
    batch_size: int


# In each line, the first spends its time mostly on calling kernels, the second on moving bytes, the third on FLOPs.
TRAINED = (Probe(24, 8, 4), Probe(48, 32, 16), Probe(240, 32, 2))
SAMPLED = (Probe(24, 4, 1), Probe(48, 4, 64), Probe(240, 4, 16))


@dataclass(frozen=True)
class Speed:
    """Seconds per FLOP, per kernel called, and per byte that kernels read or write."""

    per_flop: float
    per_call: float
    per_byte: float

    def seconds(self, work: Work) -> float:
        """Estimate how long `work` takes."""
        return self.per_flop * work.flops + self.per_call * work.calls + self.per_byte * work.bytes


@dataclass(frozen=True)
class Speeds:
    """How fast the machine trains at each precision (evaluation is at float32), and how fast it samples."""

    training: Mapping[Precision, Speed]
    sampling: Speed


def measure_speeds(device: torch.device, precisions: Collection[Precision]) -> Speeds:
    """Time small networks on `device`, in float32 and in `precisions`."""
    busy = 1 if device.type == "cpu" else BUSY
    with onednn_matmul(device):
        training = {
            precision: fit_speed(
                [_multiply(precision, busy, device), *(_train(each, precision, busy, device) for each in TRAINED)]
            )
            for precision in {"float32", *precisions}
        }
    return Speeds(training, sampling=fit_speed([_sample(each, device) for each in SAMPLED]))


def _multiply(precision: Precision, busy: int, device: torch.device) -> tuple[Work, float]:
    """Time a product of large matrices, a lower bound on the time per FLOP of a network."""
    size = 1024 * round(busy**0.5)
    matrix = torch.ones(size, size, dtype=getattr(torch, precision), device=device)
    return Work(2 * size**3, 1, 3 * matrix.nbytes), _time(lambda: matrix @ matrix, device)


def _train(each: Probe, precision: Precision, busy: int, device: torch.device) -> tuple[Work, float]:
    """Count and time one step of training."""
    stage, section = _network(each, precision, device)
    step = Step(stage, section, busy * each.batch_size, device)
    return step_cost(stage, section, busy * each.batch_size).work, _time(lambda: step.update(step.loss()), device)


def _sample(each: Probe, device: torch.device) -> tuple[Work, float]:
    """Count and time the sampling of whole images."""
    stage, section = _network(each, "float32", device)
    step = Step(stage, section, each.batch_size, device)
    draw = SAMPLERS["cached"](step.model.eval(), choosing())
    images = range(each.batch_size)
    work = sampling_work(stage, section, each.batch_size) * len(stage.targets)
    return work, _time(lambda: sample_stage(stage, draw, step.slices, images, seed=0), device)


def _network(each: Probe, precision: Precision, device: torch.device) -> tuple[Stage, StageSection]:
    section = StageSection(
        scale_factor=2,
        slices="all",
        bits=(0, 5),
        model=SpnSection(
            family="spn",
            width=each.width,
            heads=4,
            transformer_layers=1,
            pixelcnn_width=each.width,
            pixelcnn_layers=2,
            embedder_layers=1,
        ),
        training=TrainingSection(
            steps=1,
            batch_size=each.batch_size,
            optimiser=AdamW(name="adamw", learning_rate=1e-4),
            warmup_steps=0,
            schedule="constant",
            ema_decay=0.9,
            validate_every=1,
            precision=precision,
        ),
    )
    (plan,) = tile("probe", {"probe": section}, image_bits=5)
    return build_stage(plan, (each.image_size, each.image_size, 3), device), section


def _time(run: Callable[[], object], device: torch.device) -> float:
    """Return the median seconds of a run."""
    seconds = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def fit_speed(measured: Sequence[tuple[Work, float]]) -> Speed:
    """Fit a speed to measured work and seconds: non-negative least squares of relative errors."""
    works = torch.tensor([(work.flops, work.calls, work.bytes) for work, _ in measured], dtype=torch.float64)
    relative = works / torch.tensor([[seconds] for _, seconds in measured], dtype=torch.float64)
    scale = relative.amax(0)
    # With three unknowns it is simplest to try every subset: the best non-negative fit is one of seven.
    subsets = [list(chosen) for size in (1, 2, 3) for chosen in combinations(range(3), size)]
    fits = [_least_squares(relative / scale, chosen) for chosen in subsets]
    _, best = min(((error, fit) for error, fit in fits if bool((fit >= 0).all())), key=lambda each: each[0])
    return Speed(*(best / scale).tolist())


def _least_squares(columns: Tensor, chosen: list[int]) -> tuple[float, Tensor]:
    """Weight the chosen columns so that rows sum to 1; return the squared error and all weights."""
    ones = columns.new_ones(len(columns), 1)
    weights = columns.new_zeros(columns.shape[1])
    weights[chosen] = torch.linalg.lstsq(columns[:, chosen], ones).solution[:, 0]
    return float((columns @ weights - 1).square().sum()), weights
