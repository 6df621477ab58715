"""Levels as symbols of up to four bits, from the most significant down, with the frequencies of an integer law.

A symbol is one of 16 whatever the number of its bits; those that cannot occur have a frequency of 1 as well, which
costs nothing that could be measured.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Int64

from spn.codec.integer_law import IntegerLaw

FREQUENCY_BITS = 24
"""The frequencies of the 16 symbols sum to 2^24."""
SYMBOL_BITS = 4
NUM_SYMBOLS = 1 << SYMBOL_BITS
_SHARED = (1 << FREQUENCY_BITS) - NUM_SYMBOLS
"""What is shared by weight, after each symbol has got 1."""

Choose: TypeAlias = Callable[[Int64[np.ndarray, "batch 16"]], Int64[np.ndarray, " batch"]]
"""Chooses a symbol of each sub-pixel, given the frequencies of all."""


class Symbol(NamedTuple):
    """A symbol to encode."""

    value: Int64[np.ndarray, " batch"]
    below: Int64[np.ndarray, " batch"]
    """The sum of the frequencies of the symbols before it."""
    frequency: Int64[np.ndarray, " batch"]


def bits_of_symbols(num_levels: int) -> list[int]:
    """Divide the bits of a level among its symbols, as evenly as can be, the first having more; levels are 2^bits."""
    bits = num_levels.bit_length() - 1
    count = -(-bits // SYMBOL_BITS)
    return [bits // count + (number < bits % count) for number in range(count)]


def symbols_of(law: IntegerLaw, levels: Int64[np.ndarray, " batch"]) -> Iterator[Symbol]:
    """Yield the symbols of levels; only the edges of the symbols that occur are computed."""
    count, first = law.num_levels, np.zeros_like(levels)
    ends = law.below(np.stack([first, first + count], axis=1))
    for bits in bits_of_symbols(law.num_levels):
        count >>= bits
        value = (levels - first) // count
        first = first + value * count
        edges = law.below(np.stack([first, first + count], axis=1))
        numbers = np.minimum(np.stack([value, value + 1], axis=1), NUM_SYMBOLS)
        below = _below(edges, ends, numbers, bits)
        yield Symbol(value, below[:, 0], below[:, 1] - below[:, 0])
        ends = edges


def level_of(law: IntegerLaw, choose: Choose) -> Int64[np.ndarray, " batch"]:
    """Return the level whose symbols are chosen one after another."""
    count, first = law.num_levels, np.zeros(law.batch, dtype=np.int64)
    numbers = np.arange(NUM_SYMBOLS + 1)[None]
    for bits in bits_of_symbols(law.num_levels):
        count >>= bits
        edges = law.below(first[:, None] + np.minimum(numbers, 1 << bits) * count)
        below = _below(edges, edges[:, [0, -1]], numbers, bits)
        first = first + np.minimum(choose(below[:, 1:] - below[:, :-1]), (1 << bits) - 1) * count
    return first


def _below(
    edges: Int64[np.ndarray, "batch edge"],
    ends: Int64[np.ndarray, "batch 2"],
    numbers: Int64[np.ndarray, "#batch edge"],
    bits: int,
) -> Int64[np.ndarray, "batch edge"]:
    """Return the sum of the frequencies below the symbols of these `numbers`, whose lower edges in weights are `edges`.

    Where no weight is left between the `ends`, the symbols that can occur share alike.
    """
    start, whole = ends[:, :1], ends[:, 1:] - ends[:, :1]
    shared = np.where(
        whole > 0,
        (edges - start) * _SHARED // np.maximum(whole, 1),
        np.minimum(numbers, 1 << bits) * _SHARED >> bits,
    )
    return numbers + shared
