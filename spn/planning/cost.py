"""Counts the FLOPs and bytes of a stage by running its real code on tensors without values.

NOTE: counted with the CPU's kernels on every machine, so that no GPU is needed to plan for one. A GPU keeps nearly the
same tensors for the backward pass. Memory that kernels allocate internally is not counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch

from spn.config import FirstStageSection, StageSection
from spn.first_stages import VqAutoencoder
from spn.generation.walk import build_steps, walk_pixel
from spn.layers import ChannelCausalLinear
from spn.planning.step import Step
from spn.planning.work import Tally, Work, imagined
from spn.stages import Stage
from spn.stages.reconstruction import Reconstruction

Section: TypeAlias = StageSection | FirstStageSection

CPU = torch.device("cpu")

COUNTED_PIXELS = 2048
"""About this many pixels, and twice as many, are counted; larger batches are extrapolated."""


@dataclass(frozen=True)
class StepCost:
    """One step of training: its work, the work of its forward pass, and the bytes it holds.

    `activations` are kept from the forward for the backward pass; `peak` is the maximum of everything held at once.
    """

    work: Work
    forward: Work
    weights: int
    gradients: int
    optimiser: int
    average: int
    activations: int
    peak: int


def step_cost(stage: Stage, section: Section, batch_size: int, recompute: bool = False) -> StepCost:
    """Count one step of training, with one slice of each of `batch_size` images.

    Everything is linear in the batch size, so large batches are extrapolated from two small ones.
    """
    small = max(1, COUNTED_PIXELS // (stage.shape.height * stage.shape.width))
    if batch_size <= 2 * small:
        return _count_step(stage, section, batch_size, recompute)
    one, two = (_count_step(stage, section, some, recompute) for some in (small, 2 * small))

    def grown(before: int, after: int) -> int:
        return before + (after - before) * (batch_size - small) // small

    return StepCost(
        work=_combine(grown, one.work, two.work),
        forward=_combine(grown, one.forward, two.forward),
        weights=one.weights,
        gradients=one.gradients,
        optimiser=one.optimiser,
        average=one.average,
        activations=grown(one.activations, two.activations),
        peak=grown(one.peak, two.peak),
    )


def _combine(combine: Callable[[int, int], int], one: Work, two: Work) -> Work:
    return Work(combine(one.flops, two.flops), combine(one.calls, two.calls), combine(one.bytes, two.bytes))


def _count_step(stage: Stage, section: Section, batch_size: int, recompute: bool) -> StepCost:
    with imagined():
        step = Step(stage, section, batch_size, CPU, recompute)
        with Tally() as tally:
            loss = step.loss()
            forward = tally.work
            activations, peak_forward = tally.held_bytes, tally.peak_bytes
            step.update(loss)
    weights = sum(tensor.nbytes for tensor in step.model.state_dict().values())
    gradients = sum(parameter.grad.nbytes for parameter in step.model.parameters() if parameter.grad is not None)
    optimiser = sum(value.nbytes for state in step.optimiser.state.values() for value in state.values())
    # The average is a second set of weights. The last step's gradients stay until the forward pass is done. The first
    # step makes the optimiser's state after the activations are freed.
    constant, peak = 2 * weights + optimiser, max(peak_forward + gradients, tally.peak_bytes)
    return StepCost(
        work=tally.work,
        forward=forward,
        weights=weights,
        gradients=gradients,
        optimiser=optimiser,
        average=weights,
        activations=activations,
        peak=constant + peak,
    )


def forward_flops(stage: Stage, section: Section, step: StepCost, batch_size: int) -> int:
    """Count the live FLOPs of a forward pass over one slice: those of `step` without products by masked weights.

    A backward pass counts as twice a forward pass, as usual.
    """
    shape = stage.shape
    with torch.device("meta"):
        model = stage.build_network(section)
    dead = sum(module.num_dead for module in model.modules() if isinstance(module, ChannelCausalLinear))
    return step.forward.flops // batch_size - 2 * dead * shape.height * shape.width


def coding_work(stage: Reconstruction, section: FirstStageSection, batch_size: int) -> tuple[Work, Work]:
    """Count what a first stage needs to encode `batch_size` images, and to decode their codes."""
    with imagined():
        step = Step(stage, section, batch_size, CPU)
        model = cast(VqAutoencoder, step.model).eval()
        with Tally() as encoding:
            codes = model.encode(stage.target(step.slices, step.position))
        with Tally() as decoding:
            model.decode(codes)
    return encoding.work, decoding.work


def sampling_work(stage: Stage, section: StageSection, batch_size: int) -> Work:
    """Count the walk over one slice of each of `batch_size` images, from its first and its last pixel.

    The mean pixel costs the mean of the two, because attention grows linearly along the walk and nothing else does.
    """
    shape = stage.shape
    with imagined(), torch.no_grad():
        step = Step(stage, section, batch_size, CPU)
        steps = build_steps(step.model.eval(), batch_size)
        uniforms = torch.zeros(batch_size, shape.channels, dtype=torch.float64)
        with Tally() as slices:
            steps.begin(stage.context(step.slices, step.position, step.labels))
        rows, pixels = Tally(), Tally()
        for row, column in ((0, 0), (shape.height - 1, shape.width - 1)):
            with rows:
                steps.start_row(row)
            with pixels:
                walk_pixel(steps, row, column, uniforms, lambda law, uniform: law.quantile(uniform))
    return slices.work + (rows.work + pixels.work * shape.width) * shape.height // 2
