"""Codes a level bit by bit, from the most significant down, each with the frequency that an integer law gives it."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import Int64

from spn.codec.integer_law import IntegerLaw

FREQUENCY_BITS = 24
"""The frequencies of 0 and 1 sum to 2^24."""

Choose: TypeAlias = Callable[[Int64[np.ndarray, " batch"]], Int64[np.ndarray, " batch"]]
"""Chooses a bit [batch], given the frequency of 0: a decoder reads it, an encoder takes it from the level."""


def descend(law: IntegerLaw, choose: Choose) -> Int64[np.ndarray, " batch"]:
    """Halve the levels of each sub-pixel until one is left, and return it; their number is a power of two.

    A half's frequency is its share of the weights, and at least 1, so that every level can be coded.
    """
    first, count = np.zeros(law.batch, dtype=np.int64), law.num_levels
    start, end = law.below(first), law.below(first + count)
    while count > 1:
        count //= 2
        middle = law.below(first + count)
        chosen = choose(_frequency(middle - start, end - start))
        start, end = np.where(chosen, middle, start), np.where(chosen, end, middle)
        first += chosen * count
    return first


def depth_of(law: IntegerLaw) -> int:
    """Return the number of bits of a level."""
    return law.num_levels.bit_length() - 1


def _frequency(weight: Int64[np.ndarray, " batch"], whole: Int64[np.ndarray, " batch"]) -> Int64[np.ndarray, " batch"]:
    """Return the frequency of 0 for its half's weight; half of 2^24 where no weight is left."""
    possible = (1 << FREQUENCY_BITS) - 2
    share = np.clip(weight, 0, np.maximum(whole, 0)) * possible // np.maximum(whole, 1)
    return np.where(whole > 0, 1 + share, 1 << (FREQUENCY_BITS - 1))
