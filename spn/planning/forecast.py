"""Forecasts every stage from the cost of its real code and the speed of the machine."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from spn.config import Params, StageSection, TrainingSection
from spn.data.layout import Split
from spn.generation.sample import SAMPLING_BATCH_SIZE
from spn.layers import context_reach
from spn.models import StageShape, num_parameters
from spn.planning.cost import StepCost, forward_flops, sampling_work, step_cost
from spn.planning.probe import Speeds
from spn.stages import Stage, build_stage


@dataclass(frozen=True)
class Seconds:
    """Times of a stage's three rules, all trials included; None if the number of test images is not known."""

    train: float
    evaluate: float | None
    sample: float


@dataclass(frozen=True)
class StageForecast:
    """The cost of a stage; live FLOPs per image, `forward_flops` of all slices, `training_flops` of the one drawn."""

    name: str
    num_parameters: int
    num_slices: int
    num_pixels: int
    """Pixels walked to sample an image."""
    num_sub_pixels: int
    reach: tuple[int, int] | None
    """Distance in pixels at which context enters, and the largest that there is; None without context."""
    forward_flops: int
    training_flops: int
    batch_size: int
    fitting_batch_size: int
    """The largest batch, up to the configured one, whose training fits in memory; 0: none does."""
    step: StepCost
    seconds: Seconds


def forecast(
    params: Params, speeds: Speeds, num_images: Mapping[Split, int], memory: int, recompute: bool = False
) -> list[StageForecast]:
    """Forecast every stage on a machine with these speeds and `memory` bytes of memory.

    `num_images` counts the images of the validation and test splits, if known; `recompute` is the option of training.
    """
    return [_forecast_stage(params, name, speeds, num_images, memory, recompute) for name in params.stage_plans]


def _forecast_stage(
    params: Params, name: str, speeds: Speeds, num_images: Mapping[Split, int], memory: int, recompute: bool
) -> StageForecast:
    stage = build_stage(params.stage_plans[name], params.grid(name).shape)
    shape, num_slices = stage.shape, len(stage.targets)
    sections = [params.stages[name].model_copy(update={"training": each}) for each in params.stages[name].trainings]
    steps = [step_cost(stage, each, each.training.batch_size, recompute) for each in sections]
    # The stage's figures are those of the trial that needs most memory; its time of training is that of all trials.
    step, section = max(zip(steps, sections, strict=True), key=lambda costed: costed[0].peak)
    batch_size = section.training.batch_size
    flops = forward_flops(stage, section, step, batch_size)
    forward = _forward_seconds(section.training, step, speeds)
    num_pixels = num_slices * shape.height * shape.width
    return StageForecast(
        name=name,
        num_parameters=num_parameters(section.model, shape),
        num_slices=num_slices,
        num_pixels=num_pixels,
        num_sub_pixels=num_pixels * shape.channels,
        reach=_reach(section, shape),
        forward_flops=num_slices * flops,
        training_flops=3 * flops,
        batch_size=batch_size,
        fitting_batch_size=_fitting_batch_size(batch_size, step, memory),
        step=step,
        seconds=Seconds(
            train=sum(
                _training_seconds(each.training, cost, speeds, num_images.get("validation", 0))
                for each, cost in zip(sections, steps, strict=True)
            ),
            evaluate=num_slices * num_images["test"] * forward if "test" in num_images else None,
            sample=num_slices * _sampling_seconds(stage, section, speeds, params.sampling.num_images),
        ),
    )


def _training_seconds(training: TrainingSection, step: StepCost, speeds: Speeds, num_images: int) -> float:
    """Add up the steps, and the validations on `num_images` images."""
    validation = num_images * _forward_seconds(training, step, speeds)
    steps = training.steps * speeds.training[training.precision].seconds(step.work)
    return steps + math.ceil(training.steps / training.validate_every) * validation


def _forward_seconds(training: TrainingSection, step: StepCost, speeds: Speeds) -> float:
    """Return the seconds of a forward pass over a slice of an image."""
    return speeds.training["float32"].seconds(step.forward) / training.batch_size


def _reach(section: StageSection, shape: StageShape) -> tuple[int, int] | None:
    farthest = max(shape.height, shape.width) - 1
    return (int(min(context_reach(section.model), farthest)), farthest) if shape.num_cells else None


def _fitting_batch_size(batch_size: int, held: StepCost, memory: int) -> int:
    """Shrink the batch until its share of the peak fits."""
    # Copies of the weights at lower precision do not grow with the batch either: count one more set.
    constant = 2 * held.weights + held.gradients + held.optimiser + held.average
    return min(batch_size, max(0, batch_size * (memory - constant) // (held.peak - constant)))


def _sampling_seconds(stage: Stage, section: StageSection, speeds: Speeds, num_images: int) -> float:
    """Add up the walks over one slice of every image, batch by batch."""
    full, rest = divmod(num_images, SAMPLING_BATCH_SIZE)
    batches = {SAMPLING_BATCH_SIZE: full, rest: 1} if rest else {SAMPLING_BATCH_SIZE: full}
    return sum(
        count * speeds.sampling.seconds(sampling_work(stage, section, batch_size))
        for batch_size, count in batches.items()
        if count
    )
