"""The order of Menick & Kalchbrenner 2018, Fig. 3, as a definition of its own to hold the pipeline against."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from spn.config import StagePlan


class Step(NamedTuple):
    """One pixel of one stage: all its channels, and of each the bits of the stage."""

    stage: str
    bits: tuple[int, int]
    pixel: tuple[int, int]
    """Row and column in the image."""


def generation_order(plans: Iterable[StagePlan], height: int, width: int) -> list[Step]:
    """List what a chain generates, step by step: stage by stage, slice by slice, pixel by pixel."""
    return [
        Step(plan.name, plan.bits, (row, column))
        for plan in plans
        for m, n in plan.targets
        for row in range(m, height, plan.scale_factor)
        for column in range(n, width, plan.scale_factor)
    ]


def step_numbers(steps: list[Step], shape: tuple[int, int, int]) -> Int64[np.ndarray, "bit height width"]:
    """Return the number, from 1, of the step that generates each bit of each pixel, and 0 where none does.

    `shape` is (bits, height, width); bits count from the most significant one.
    """
    numbers = np.zeros(shape, dtype=np.int64)
    for number, (_, bits, pixel) in enumerate(steps, start=1):
        numbers[(slice(*bits), *pixel)] = number
    return numbers
