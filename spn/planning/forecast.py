"""Forecasts every network from the cost of its real code and the speed of the machine."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spn.config import FirstStageSection, Params, StageSection, TrainingSection
from spn.data.layout import SPLITS, Split
from spn.first_stages import KEPT, MEASURED
from spn.generation.sample import SAMPLING_BATCH_SIZE
from spn.layers import context_reach
from spn.models import StageShape
from spn.planning.cost import Section, StepCost, coding_work, forward_flops, sampling_work, step_cost
from spn.planning.probe import Speeds
from spn.stages import Stage, build_stage
from spn.stages.reconstruction import Reconstruction

ENCODED_AT_ONCE = 64
"""Images that are counted together; all of them cost the same."""


@dataclass(frozen=True)
class Seconds:
    """Times of a network's rules, all trials included; None for a rule that it lacks, or if splits are unknown."""

    train: float
    extract_codes: float | None = None
    evaluate: float | None = None
    sample_stage: float | None = None


@dataclass(frozen=True)
class StageForecast:
    """The cost of a stage; live FLOPs per image, `forward_flops` of all slices, `training_flops` of the one drawn.

    Of a first stage, nothing is walked.
    """

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
    params: Params,
    speeds: Speeds,
    num_images: Mapping[Split, int],
    memory: int,
    recompute: bool = False,
    num_gpus: int = 1,
) -> list[StageForecast]:
    """Forecast every network on a machine with these speeds and `memory` bytes of memory: first stages, then stages.

    `num_images` counts the images of the splits that are known; `recompute` is the option of training. Of several GPUs,
    speeds and memory are those of one, and so are memory and batch of the forecast; each has its share of the images.
    """
    shared = {split: -(-count // num_gpus) for split, count in num_images.items()}
    return [_forecast(params, name, speeds, shared, memory, recompute, num_gpus) for name in params.trained_plans]


def _forecast(
    params: Params,
    name: str,
    speeds: Speeds,
    num_images: Mapping[Split, int],
    memory: int,
    recompute: bool,
    num_gpus: int = 1,
) -> StageForecast:
    stage, trained = build_stage(params.trained_plans[name], params.grid(name).shape), params.trained(name)
    sections = [trained.model_copy(update={"training": _share(each, num_gpus)}) for each in trained.trainings]
    # The state in which training ends, when all terms of its loss act.
    stage.progress = 1.0
    steps = [step_cost(stage, each, each.training.batch_size, recompute) for each in sections]
    # The stage's figures are those of the trial that needs most memory; its time of training is that of all trials.
    step, section = max(zip(steps, sections, strict=True), key=lambda costed: costed[0].peak)
    batch_size = section.training.batch_size
    flops = forward_flops(stage, section, step, batch_size)
    is_walked = isinstance(section, StageSection)
    num_slices = len(stage.targets)
    num_pixels = num_slices * stage.shape.height * stage.shape.width * is_walked
    return StageForecast(
        name=name,
        num_parameters=stage.num_parameters(section),
        num_slices=num_slices * is_walked,
        num_pixels=num_pixels,
        num_sub_pixels=num_pixels * stage.shape.channels,
        reach=_reach(section, stage.shape),
        forward_flops=num_slices * flops,
        training_flops=3 * flops,
        batch_size=batch_size,
        fitting_batch_size=_fitting_batch_size(batch_size, step, memory),
        step=step,
        seconds=_seconds(
            params, stage, section, list(zip(sections, steps, strict=True)), speeds, num_images, recompute, num_gpus
        ),
    )


def _share(training: TrainingSection, num_gpus: int) -> TrainingSection:
    """Return the training of one of several GPUs, the one with the largest share of a batch."""
    return training.model_copy(update={"batch_size": -(-training.batch_size // num_gpus)})


def _seconds(
    params: Params,
    stage: Stage,
    section: Section,
    trainings: Sequence[tuple[Section, StepCost]],
    speeds: Speeds,
    num_images: Mapping[Split, int],
    recompute: bool,
    num_gpus: int,
) -> Seconds:
    """Estimate the times of a network's rules; `section` is that of the training of which the rest is estimated."""
    validated = num_images.get("validation", 0)
    train = sum(_training_seconds(each.training, cost, speeds, validated) for each, cost in trainings)
    if isinstance(section, FirstStageSection):
        assert isinstance(stage, Reconstruction)
        if section.adversarial:
            # Before it starts, the adversarial loss costs nothing.
            stage.progress = 0.0
            before = step_cost(stage, section, section.training.batch_size, recompute)
            start = section.adversarial.start
            train = (1 - start) * train + start * _training_seconds(section.training, before, speeds, validated)
        return Seconds(train, extract_codes=_encoding_seconds(stage, section, speeds, num_images))
    cost = next(cost for each, cost in trainings if each is section)
    num_slices = len(stage.targets)
    forward = stage.draws * num_slices * _forward_seconds(section.training, cost, speeds)
    return Seconds(
        train,
        evaluate=num_images["test"] * forward if "test" in num_images else None,
        sample_stage=num_slices * _sampling_seconds(stage, section, speeds, params.sampling.num_images, num_gpus),
    )


def _encoding_seconds(
    stage: Reconstruction, section: FirstStageSection, speeds: Speeds, num_images: Mapping[Split, int]
) -> float | None:
    """Add up the codes of all images, the figures of the test split, and the distortion of noised codes."""
    if not all(split in num_images for split in SPLITS):
        return None
    works = coding_work(stage, section, ENCODED_AT_ONCE)
    encode, decode = (speeds.training["float32"].seconds(work) / ENCODED_AT_ONCE for work in works)
    measured = min(MEASURED, num_images["validation"] or num_images["train"])
    encoded = sum(num_images.values()) + num_images["test"] + measured
    return encoded * encode + (num_images["test"] + (1 + len(KEPT)) * measured) * decode


def _training_seconds(training: TrainingSection, step: StepCost, speeds: Speeds, num_images: int) -> float:
    """Add up the steps, and the validations on `num_images` images."""
    validation = num_images * _forward_seconds(training, step, speeds)
    steps = training.steps * speeds.training[training.precision].seconds(step.work)
    return steps + math.ceil(training.steps / training.validate_every) * validation


def _forward_seconds(training: TrainingSection, step: StepCost, speeds: Speeds) -> float:
    """Return the seconds of a forward pass over a slice of an image."""
    return speeds.training["float32"].seconds(step.forward) / training.batch_size


def _reach(section: Section, shape: StageShape) -> tuple[int, int] | None:
    if isinstance(section, FirstStageSection):
        return None
    farthest = max(shape.height, shape.width) - 1
    return (int(min(context_reach(section.model), farthest)), farthest) if shape.num_cells else None


def _fitting_batch_size(batch_size: int, held: StepCost, memory: int) -> int:
    """Shrink the batch until its share of the peak fits."""
    # Copies of the weights at lower precision do not grow with the batch either: count one more set.
    constant = 2 * held.weights + held.gradients + held.optimiser + held.average
    return min(batch_size, max(0, batch_size * (memory - constant) // (held.peak - constant)))


def _sampling_seconds(stage: Stage, section: StageSection, speeds: Speeds, num_images: int, num_gpus: int) -> float:
    """Add up the walks over one slice of every image, batch by batch; of several GPUs, by the one with most batches."""
    full, rest = divmod(num_images, SAMPLING_BATCH_SIZE)
    batches = ([SAMPLING_BATCH_SIZE] * full + [rest] * (rest > 0))[::num_gpus]
    return sum(
        count * speeds.sampling.seconds(sampling_work(stage, section, batch_size))
        for batch_size, count in Counter(batches).items()
    )
