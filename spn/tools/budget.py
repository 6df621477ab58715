"""Chooses networks, batches and steps for a time of training and the machine's memory, by the figures of `spn plan`.

All numbers in this file are ours: the SPN paper states no sizes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from spn.config import InputError, Params
from spn.planning import Speeds
from spn.planning.cost import StepCost, step_cost
from spn.stages import build_stage

SHARES = {"raster": 1.0, "first_high": 0.15, "rest_high": 0.25, "low": 0.6}
"""Share of its chain's time that each stage is trained for."""

LEAST_STEPS = 500
"""A larger network is taken only if it leaves every stage this many steps."""

VALIDATIONS = 10
"""At most this many validations in a training, which take at most a tenth of its time if there is more than one."""

LARGEST_SLICE = 32
"""Slices have at most this side in pixels, as in the paper's experiments."""


@dataclass(frozen=True)
class Network:
    """The sizes of a network."""

    width: int
    heads: int
    pixelcnn_width: int
    pixelcnn_layers: int


NETWORKS = (Network(16, 2, 18, 2), Network(32, 2, 36, 3), Network(64, 2, 72, 4), Network(128, 4, 144, 5))
"""From the smallest; the third is that of presets/cifar10_cpu.yaml. Widths of PixelCNNs are divisible by 3 channels."""


@dataclass(frozen=True)
class Schedule:
    """How long a stage is trained, and how often it is validated."""

    batch_size: int
    steps: int
    validate_every: int


@dataclass(frozen=True)
class Choice:
    """A network, how its stages are trained, and whether time or memory is why it is no larger; None if nothing is."""

    network: Network
    schedules: Mapping[str, Schedule]
    limited_by: str | None = None


def scale_factor(size: int) -> int:
    """Return S, by which images of `size` are cut; raise InputError unless it divides them."""
    factor = next((each for each in (2, 4, 8) if size <= each * LARGEST_SLICE), 16)
    if size % factor:
        raise InputError(
            f"--size: expected a multiple of {factor}, as the chains cut it into {factor}x{factor} slices, got {size}"
        )
    return factor


def first_choice(size: int, num_train: int) -> Choice:
    """Return the smallest network with batches that suit images of `size`, and a single step."""
    # As many images as in the presets for one core: 8 of 32x32, 4 of 64x64; 16 slices.
    whole = min(max(4, 8192 // size**2), 8)
    batches = {stage: min(num_train, whole if stage == "raster" else 16) for stage in SHARES}
    return Choice(NETWORKS[0], {stage: Schedule(batch, 1, 1) for stage, batch in batches.items()})


def choose(params: Params, first: Choice, speeds: Speeds, seconds: float, memory: int, num_validation: int) -> Choice:
    """Return the largest network that leaves every stage enough steps in `seconds` for each chain, and fits in memory.

    `params` has the chains with the network and the batches of `first`; `memory` is that of one training in bytes. The
    smallest network is taken even if there are few steps. Raises InputError if not even that fits in memory.
    """
    chosen: Choice | None = None
    for network in NETWORKS:
        costs = {stage: _cost(params, stage, network) for stage in first.schedules}
        peak = max(cost.peak for cost in costs.values())
        if peak > memory:
            if chosen is None:
                raise InputError(
                    f"--size: expected images whose training fits in {memory >> 20} MiB, this machine's memory for one "
                    f"job, got {params.data.shape[0]}, which needs {peak >> 20} MiB"
                )
            return replace(chosen, limited_by="memory")
        schedules = {
            stage: _schedule(params, stage, cost, speeds, SHARES[stage] * seconds, num_validation)
            for stage, cost in costs.items()
        }
        if chosen and min(each.steps for each in schedules.values()) < LEAST_STEPS:
            return replace(chosen, limited_by="time")
        chosen = Choice(network, schedules)
    assert chosen is not None
    return chosen


def _cost(params: Params, name: str, network: Network) -> StepCost:
    """Count a step of a stage with another network."""
    section = params.stages[name]
    sizes = {key: getattr(network, key) for key in ("width", "heads", "pixelcnn_width", "pixelcnn_layers")}
    changed = section.model_copy(update={"model": section.model.model_copy(update=sizes)})
    stage = build_stage(params.stage_plans[name], params.data.shape)
    return step_cost(stage, changed, changed.training.batch_size)


def _schedule(
    params: Params, name: str, cost: StepCost, speeds: Speeds, seconds: float, num_validation: int
) -> Schedule:
    """Divide the time of a stage between steps and validations."""
    training = params.stages[name].training
    step = speeds.training[training.precision].seconds(cost.work)
    validation = num_validation * speeds.training["float32"].seconds(cost.forward) / training.batch_size
    count = max(1, min(VALIDATIONS, int(0.1 * seconds / validation)))
    steps = _rounded(max(1, int((seconds - count * validation) / step)))
    return Schedule(training.batch_size, steps, math.ceil(steps / count))


def _rounded(steps: int) -> int:
    """Round down to two digits."""
    unit = 10 ** max(0, len(str(steps)) - 2)
    return steps // unit * unit
