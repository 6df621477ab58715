"""Every network of the presets at the papers' scale, once: `python -m benchmarks.papers [PRESET ...] [--output FILE]`.

One real step of training and one batch of evaluation on random images, a single slice each, in float32 on one thread of
the CPU, in seconds of its time. Each network has a process of its own, whose peak of memory is beside the one planned
by `spn plan`. A network that needs more memory than is free is left out, with the reason.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import cast

import torch
from tabulate import tabulate

from benchmarks.machine import cpu_name
from spn.config import load_params
from spn.files import write_text
from spn.machine import onednn_matmul
from spn.models import Model
from spn.planning.cost import step_cost
from spn.stages import Stage, build_stage
from spn.training.step import Batch, Learner

PRESETS = Path(__file__).parents[1] / "presets"
PAPERS = (
    "pixelcnn_pp",
    "imagenet32",
    "imagenet64",
    "imagenet128",
    "imagenet256",
    "celeba_hq256",
    "imagebart_ffhq",
    "imagebart_lsun",
    "imagebart_imagenet",
)
CPU = torch.device("cpu")
HEADER = (
    "preset",
    "network",
    "parameters",
    "training step, s",
    "evaluation, s",
    "peak, GiB",
    "planned, GiB",
    "loss",
    "evaluated",
)


@dataclass(frozen=True)
class Measured:
    """What a network's step and its evaluation took: seconds and bytes; losses are nats, or a first stage's loss."""

    num_parameters: int
    planned: int
    free: int
    peak: int = 0
    training: float = 0.0
    evaluation: float = 0.0
    loss: float = math.nan
    evaluated: float = math.nan

    @property
    def fits(self) -> bool:
        """Whether there was memory to measure it."""
        return self.planned <= self.free

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table, without names; losses by sub-pixel."""
        planned = f"{self.planned / 2**30:.1f}"
        if not self.fits:
            reason = f"left out: {self.free / 2**30:.1f} GiB were free"
            return f"{self.num_parameters:,}", reason, "", "", planned, "", ""
        return (
            f"{self.num_parameters:,}",
            f"{self.training:.1f}",
            f"{self.evaluation:.1f}",
            f"{self.peak / 2**30:.1f}",
            planned,
            f"{self.loss:.3f}",
            f"{self.evaluated:.3f}",
        )


def main(arguments: list[str] | None = None) -> int:
    """Measure and print network by network, then write the table; return 1 if a loss is not finite."""
    options = _parser().parse_args(arguments)
    rows: list[tuple[str, ...]] = []
    are_finite = True
    for preset in options.presets or PAPERS:
        path = PRESETS / f"{preset}.yaml"
        for name in load_params(path).trained_plans:
            measured = _alone(path, name)
            are_finite &= not measured.fits or math.isfinite(measured.loss + measured.evaluated)
            rows.append((preset, name, *measured.cells()))
            print("  ".join(rows[-1]), flush=True)
    if options.output is not None:
        write_text(options.output, _page(rows))
    return int(not are_finite)


def _alone(path: Path, name: str) -> Measured:
    """Measure in a new process, because a process does not give back its memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as workers:
        return workers.submit(measure, path, name).result()


def measure(path: Path, name: str) -> Measured:
    """Train one step of a network of a preset on one slice, and evaluate its averaged weights on the same."""
    torch.set_num_threads(1)
    params = load_params(path)
    trained = params.trained(name)
    section = trained.training.model_copy(update={"batch_size": 1, "precision": "float32"})
    trained = trained.model_copy(update={"training": section})
    place = "first_stages" if name in params.first_stages else "stages"
    params = params.model_copy(update={place: getattr(params, place) | {name: trained}})
    stage = build_stage(params.trained_plans[name], params.grid(name).shape)
    stage.progress = 1.0
    found = Measured(stage.num_parameters(trained), step_cost(stage, trained, 1).peak, available_bytes())
    if not found.fits:
        return found
    with onednn_matmul(CPU):
        learner = Learner(params, name, CPU)
        batch = random_batch(learner.stage)
        learner.initialise(batch)
        start = time.process_time()
        # Late enough that all terms of a first stage's loss act.
        loss, _, _ = learner.take(9 * section.steps // 10, batch, partial(learner.stage.loss, learner.model))
        middle = time.process_time()
        with torch.inference_mode():
            evaluated = learner.stage.nats(cast(Model, learner.average.model), *batch).mean()
        end = time.process_time()
    sub_pixels = math.prod((stage.shape.height, stage.shape.width, stage.shape.channels))
    return Measured(
        found.num_parameters,
        found.planned,
        found.free,
        _peak_bytes(),
        middle - start,
        end - middle,
        float(loss) / sub_pixels,
        float(evaluated) / sub_pixels,
    )


def random_batch(stage: Stage) -> Batch:
    """Draw one image of random levels, the last of the stage's targets, which has the most context, and a class."""
    generator = torch.Generator().manual_seed(1)
    size, shape = stage.plan.scale_factor, stage.shape
    sides = (1, size, size, shape.height, shape.width, shape.channels)
    slices = torch.randint(1 << stage.plan.image_bits, sides, dtype=torch.uint8, generator=generator)
    labels = torch.zeros(1, dtype=torch.long) if stage.plan.num_classes else None
    return slices, stage.positions(stage.targets[-1], 1), labels


def available_bytes() -> int:
    """Return the memory that is free or can be freed, as that which caches files."""
    return _from_proc("/proc/meminfo", "MemAvailable")


def _peak_bytes() -> int:
    """Return the most memory that this process held; what `resource` says counts the parent's too."""
    return _from_proc("/proc/self/status", "VmHWM")


def _from_proc(path: str, key: str) -> int:
    (kibibytes,) = (line.split()[1] for line in Path(path).read_text().splitlines() if line.startswith(f"{key}:"))
    return 1024 * int(kibibytes)


def _page(rows: Sequence[Sequence[str]]) -> str:
    table = tabulate(rows, HEADER, "github", disable_numparse=True, colalign=("left", "left", *["right"] * 7))
    paragraphs = (
        "# The papers' networks, once",
        f"Measured on {cpu_name()}, torch {torch.__version__}, while other work ran. {__doc__}".strip(),
        "Losses are in nats per sub-pixel or code, of random levels, which no network can predict; those of `vq` are "
        "its training loss and the mean absolute error in units of [-1, 1]. The plan counts the gradients of the step "
        "before too, which a first step has not.",
        table,
    )
    return "\n\n".join(paragraphs) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.papers", description=__doc__)
    parser.add_argument("presets", nargs="*", metavar="PRESET", help=f"default: {', '.join(PAPERS)}")
    parser.add_argument("--output", type=Path, help="Markdown file to write the table to")
    return parser


if __name__ == "__main__":
    sys.exit(main())
