"""The plan as text: four tables, an explanation of their figures, and a warning for each stage that will not fit."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from tabulate import tabulate

from spn.config import FirstStageSection, Params, StageSection
from spn.data.layout import Split
from spn.planning.files import file_sizes
from spn.planning.forecast import StageForecast
from spn.planning.machine import Machine

UNKNOWN = "-"
"""Shown for a figure that does not exist, or that depends on an unknown number of images."""


def plan_table(
    params: Params, stages: Sequence[StageForecast], num_images: Mapping[Split, int], machine: Machine
) -> str:
    """Lay out the cost of every stage and chain; the last lines explain the figures."""
    by_name = {stage.name: stage for stage in stages}
    times = TIMES if params.first_stage_plans else tuple(each for each in TIMES if each != "extract_codes")
    chains = {f"chain {name}": [by_name[stage] for stage in chain.stages] for name, chain in params.chains.items()}
    rows = {f"{stage.name}": [stage] for stage in stages} | chains
    tables = (
        [SIZES, *(_sizes(name, parts) for name, parts in rows.items())],
        [MEMORY, *(_memory(stage) for stage in stages)],
        [("estimated time", *times), *(_times(name, parts, times) for name, parts in rows.items())],
        [
            ("file", "MiB"),
            *((str(path), _mebibytes(size)) for path, size in file_sizes(params, stages, num_images).items()),
        ],
    )
    texts = (
        tabulate(table, tablefmt="plain", colalign=("left", *["right"] * len(table[0][1:])), disable_numparse=True)
        for table in tables
    )
    return "\n\n".join([*texts, _statement(params, num_images, machine)])


def plan_json(stages: Sequence[StageForecast]) -> str:
    """Write all figures of every stage as JSON, unrounded: seconds, bytes, FLOPs; null if not known."""
    return json.dumps({"stages": {stage.name: asdict(stage) for stage in stages}}, indent=2)


def warnings(params: Params, stages: Sequence[StageForecast], machine: Machine) -> list[str]:
    """Return a line for each stage whose training needs more than the memory, saying what would make it fit."""
    return [_warning(params, stage, machine) for stage in stages if stage.step.peak > machine.memory]


SIZES = ("stage", "parameters", "slices", "pixels", "sub-pixels", "context reach", "forward GFLOP", "training GFLOP")
MEMORY = ("training, MiB", "batch", "weights", "gradients", "optimiser", "average", "activations", "peak")
TIMES = ("train", "extract_codes", "evaluate", "sample_stage")


def _sizes(name: str, parts: Sequence[StageForecast]) -> tuple[str, ...]:
    counts = (
        sum(part.num_parameters for part in parts),
        sum(part.num_slices for part in parts),
        sum(part.num_pixels for part in parts),
        sum(part.num_sub_pixels for part in parts),
    )
    flops = (sum(part.forward_flops for part in parts), sum(part.training_flops for part in parts))
    reaches = [part.reach for part in parts if part.reach]
    reach = f"{reaches[0][0]:,} of {reaches[0][1]:,}" if len(parts) == 1 and reaches else UNKNOWN
    return name, *(f"{count:,}" for count in counts), reach, *(f"{count / 1e9:,.3f}" for count in flops)


def _memory(stage: StageForecast) -> tuple[str, ...]:
    held = stage.step
    sizes = (held.weights, held.gradients, held.optimiser, held.average, held.activations, held.peak)
    return stage.name, f"{stage.batch_size:,}", *(f"{size / 2**20:,.1f}" for size in sizes)


def _times(name: str, parts: Sequence[StageForecast], rules: Sequence[str]) -> tuple[str, ...]:
    seconds = {rule: [getattr(part.seconds, rule) for part in parts] for rule in rules}
    return name, *(UNKNOWN if None in each else duration(sum(each)) for each in seconds.values())


def _mebibytes(size: int | None) -> str:
    return UNKNOWN if size is None else f"{size / 2**20:,.2f}"


def duration(seconds: float) -> str:
    """Return seconds in a suitable unit, with two digits, as an estimate deserves."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds:.{0 if seconds >= 10 else 1}f} s"


def _statement(params: Params, num_images: Mapping[Split, int], machine: Machine) -> str:
    test = (
        f"{num_images['test']:,} test images" if "test" in num_images else "test images, whose number is not known yet"
    )
    tuned = any(params.stages[name].trials for name in params.stage_plans)
    lines = (
        "slices, pixels, sub-pixels: walked to sample an image.",
        "context reach: distance in pixels at which context is seen, of the largest that there is; -: no context.",
        "forward GFLOP: live, of all slices of an image; training GFLOP: of the one that a step draws, with backward.",
        "activations: kept for backward; peak: the maximum of everything at once, without the kernels' own buffers.",
        *([f"batch: the share of one of {machine.num_gpus} GPUs."] * (machine.num_gpus > 1)),
        f"times: {machine.basis}; evaluate: {test}; sample_stage: {params.sampling.num_images:,} images.",
        "files: without notes and labels; -: the number of images is not known yet.",
        *(
            ["codes: a first stage is trained, then encodes all images; then its stages train."]
            * bool(params.first_stage_plans)
        ),
        *(["trials of a stage: train is the time of all of them; memory and batch are those of the largest."] * tuned),
    )
    return "\n".join(lines)


def _warning(params: Params, stage: StageForecast, machine: Machine) -> str:
    held, section = stage.step, params.trained(stage.name)
    fixed = held.weights + held.gradients + held.optimiser + held.average
    place = "first_stages" if isinstance(section, FirstStageSection) else "stages"
    each = f" on each of {machine.num_gpus} GPUs" if machine.num_gpus > 1 else ""
    needs = (
        f"warning: {place}.{stage.name}: training needs {_size(held.peak)} at batch_size {stage.batch_size}{each} "
        f"(network and optimiser {_size(fixed)}, activations {_size(held.activations)}), "
        f"{machine.name} has {_size(machine.memory)}: "
    )
    if stage.fitting_batch_size:
        where = "batch_size in training and trials" if section.trials else "training.batch_size"
        changes = [f"set {where} to at most {stage.fitting_batch_size * machine.num_gpus}"]
    else:
        changes = ["not even a batch_size of 1 fits; narrow the model"]
    if stage.fitting_batch_size and isinstance(section, StageSection):
        changes.append(f"train with --micro-batch {stage.fitting_batch_size}")
    changes.append("train with --recompute")
    if isinstance(section, StageSection) and not (section.codes or section.diffusion):
        changes.append(f"raise scale_factor above {section.scale_factor} (activations shrink as its square)")
    return f"{needs}{', '.join(changes[:-1])}, or {changes[-1]}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.1f} MiB"
