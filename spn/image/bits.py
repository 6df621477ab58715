"""Bit ranges of levels; depth upscaling generates them from the most significant down."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)


def split_bits(levels: Array, cuts: Sequence[int]) -> list[Array]:
    """Cut levels of cuts[-1] bits into one array per range; cuts count from the most significant bit, e.g. (0, 3, 8).

    Range [a, b) holds levels 0 .. 2^(b-a) - 1.
    """
    depth = cuts[-1]
    return [(levels >> (depth - end)) & ((1 << (end - start)) - 1) for start, end in pairwise(cuts)]
