"""What a stage promises: every cell once, and a context that is exactly what the chain has generated so far."""

from collections.abc import Iterator

import numpy as np
import torch
from order import generation_order

from contract.problem import Check, Position, Problem
from spn.config import StagePlan
from spn.evaluation.check import hidden_bits_leak, same_context
from spn.image import join_slices, split_slices
from spn.stages import Stage

Known = np.ndarray
"""The bits generated so far of every pixel, as a mask in the image's own scale [height, width]."""


def _generation(problem: Problem) -> Iterator[tuple[Stage, StagePlan, Known, list[tuple[Position, Known]]]]:
    """Follow a chain at full resolution: what is known before each stage, and before each of its targets."""
    known = np.zeros(problem.shape[:2], dtype=int)
    for stage in problem.stages:
        plan, before, targets = stage.plan, known.copy(), []
        for m, n in plan.targets:
            targets.append(((m, n), known.copy()))
            for bit in range(*plan.bits):
                known[m :: plan.scale_factor, n :: plan.scale_factor] |= 1 << (problem.bits - 1 - bit)
        yield stage, plan, before, targets


def _expected_cells(
    image: np.ndarray,
    plan: StagePlan,
    position: Position,
    before: Known,
    now: Known,
    targets: list[tuple[Position, Known]],
) -> list[np.ndarray | None]:
    """Cut the windows out of the image at full resolution; None stands for an empty cell."""
    size = plan.scale_factor
    reach = range(-size + 1, size)
    whole = [(di, dj) for di in reach for dj in reach]
    is_raster = list(plan.targets) == sorted(plan.targets)
    order = sorted((i, j) for i in range(size) for j in range(size)) if is_raster else [(0, 0), *plan.targets]
    order = list(dict.fromkeys(order))
    pairs = [(late, early) for number, late in enumerate(order) for early in order[:number]]
    earlier = {each: [_minus(early, each) for late, early in pairs if late == each] for each in order}
    causal = [offset for offset in whole if any(offset == _minus(early, late) for late, early in pairs)]
    cells: list[np.ndarray | None] = []
    if any(_cell(image, size, at, known, offset) is not None for at, known in targets for offset in earlier[at]):
        cells += [_cell(image, size, position, now, each) if each in earlier[position] else None for each in causal]
    if any(
        _cell(image, size, at, before, offset) is not None
        for at, _ in targets
        for offset in whole
        if offset not in earlier[at]
    ):
        cells += [_cell(image, size, position, before, offset) for offset in whole]
    return cells


def _minus(one: Position, other: Position) -> Position:
    return one[0] - other[0], one[1] - other[1]


def _cell(image: np.ndarray, size: int, position: Position, known: Known, offset: Position) -> np.ndarray | None:
    (m, n), (di, dj) = position, offset
    if not (0 <= m + di < size and 0 <= n + dj < size):
        return None
    i, j = np.arange(image.shape[0] // size), np.arange(image.shape[1] // size)
    pixels = np.ix_(i * size + m + di, j * size + n + dj)
    mask = np.bitwise_and.reduce(known[pixels], axis=None)
    return image[pixels] & mask if mask else None


def _expected_high(image: np.ndarray, plan: StagePlan, position: Position, before: Known) -> np.ndarray | None:
    """Cut the target's more significant bits out of the image; None unless those of all targets are known before."""
    size, above = plan.scale_factor, [1 << (plan.image_bits - 1 - bit) for bit in range(plan.bits[0])]
    known = [before[m::size, n::size] & bit for m, n in plan.targets for bit in above]
    if not known or not np.all(known):
        return None
    return image[position[0] :: size, position[1] :: size] // above[-1]


def check_every_bit_once(problem: Problem) -> None:
    """Every bit of every pixel is generated exactly once."""
    times = np.zeros((problem.bits, *problem.shape[:2]), dtype=int)
    for _, bits, pixel in generation_order(problem.plans, *problem.shape[:2]):
        times[(slice(*bits), *pixel)] += 1
    assert (times == 1).all()


def check_contexts(problem: Problem) -> None:
    """Every context is what the paper's formula cuts out of the image at full resolution, and nothing else."""
    image = problem.images(1)
    for stage, plan, before, targets in _generation(problem):
        for position, now in targets:
            expected = _expected_cells(image[0].numpy(), plan, position, before, now, targets)
            slices = split_slices(image, plan.scale_factor)
            actual = stage.context(slices, stage.positions(position, 1))
            assert actual.present[0].tolist() == [cell is not None for cell in expected]
            for cell, levels in zip(expected, actual.cells[0].numpy(), strict=True):
                np.testing.assert_array_equal(levels, np.zeros_like(levels) if cell is None else cell)
            high = _expected_high(image[0].numpy(), plan, position, before)
            if high is None:
                assert actual.high is None
            else:
                assert actual.high is not None
                assert np.array_equal(actual.high[0].numpy(), high)
            assert actual.position.tolist() == [position[0] * plan.scale_factor + position[1]]


def check_later_bits_are_hidden(problem: Problem) -> None:
    """No context changes when all bits that the chain has not yet generated are replaced."""
    image = problem.images(1)
    noise = torch.from_numpy(np.random.default_rng(0).integers(1 << problem.bits, size=image.shape, dtype=np.uint8))
    for stage, plan, _, targets in _generation(problem):
        for position, now in targets:
            changed = image ^ (noise & ~torch.from_numpy(now).to(torch.uint8)[None, :, :, None])
            positions = stage.positions(position, 1)
            seen, still = (stage.context(split_slices(each, plan.scale_factor), positions) for each in (image, changed))
            assert same_context(seen, still)


def check_hidden_bits_leak(problem: Problem) -> None:
    """The same, as `spn check` does it: by what the stage's own plan says is known."""
    for stage in problem.stages:
        slices = split_slices(problem.images(2), stage.plan.scale_factor)
        assert hidden_bits_leak(stage, slices, torch.Generator().manual_seed(0)) == []


def check_round_trip(problem: Problem) -> None:
    """A chain is a bijection: the targets of its stages, inserted one by one, are the image."""
    truth = problem.images(2)
    image = torch.zeros_like(truth)
    for stage in problem.stages:
        size = stage.plan.scale_factor
        for position in stage.targets:
            target = stage.target(split_slices(truth, size), stage.positions(position, len(truth)))
            assert 0 <= target.min() <= target.max() < stage.shape.num_levels
            slices = stage.insert(split_slices(image, size), position, target)
            image = join_slices(slices)
    assert torch.equal(image, truth)


STAGE_CHECKS: tuple[Check, ...] = (
    check_every_bit_once,
    check_contexts,
    check_later_bits_are_hidden,
    check_hidden_bits_leak,
    check_round_trip,
)
"""Checks that need no model."""
