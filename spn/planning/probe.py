"""A few seconds of real training and sampling of small networks, to learn how fast the machine is."""

import statistics
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from spn.config import AdamW, SpnSection, StageSection, TrainingSection, tile
from spn.generation import SAMPLERS, sample_stage
from spn.machine import onednn_matmul
from spn.planning.cost import sampling_work, step_cost
from spn.planning.speed import Speed, fit_speed
from spn.planning.step import Step
from spn.planning.work import Work
from spn.stages import Stage

Precision: TypeAlias = Literal["float32", "bfloat16"]

REPEATS = 3
"""Timed runs, of which the median counts, after one more to warm up."""

BUSY = 64
"""Factor on the number of slices per step on a GPU, which small batches would leave idle."""


@dataclass(frozen=True)
class Probe:
    """A small network, and the images it is timed on."""

    width: int
    image_size: int
    batch_size: int


# Of each three, the first spends its time mostly in calling kernels, the second in moving bytes, the third in FLOPs.
TRAINED = (Probe(24, 8, 4), Probe(48, 32, 16), Probe(240, 32, 2))
SAMPLED = (Probe(24, 4, 1), Probe(48, 4, 64), Probe(240, 4, 16))


@dataclass(frozen=True)
class Speeds:
    """How fast the machine trains at each precision, evaluation being at float32, and how fast it samples."""

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
    """Time a product of matrices, which no FLOP of a network is cheaper than."""
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
    draw = SAMPLERS["cached"](step.model.eval(), 1.0)
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
    return Stage(plan, (each.image_size, each.image_size, 3), device), section


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
