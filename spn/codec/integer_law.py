"""Laws in whole numbers: from rounded outputs of a network to weights of levels that are the same on every machine.

All arithmetic after rounding is of 64-bit whole numbers. Weights approximate the law's probabilities; what is lost to
rounding is a few 1e-5 bits/dim (`Rate`).
"""

from abc import ABC, abstractmethod
from functools import cache

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from spn.codec.exponentials import POINT, SCALE, exp_fraction, exp_of_minus, log_sigmoid
from spn.codec.rounding import Grid
from spn.likelihood import Categorical, DiscretisedMixture, Law

WEIGHT_BITS = 38
"""The sum of all weights of a law is below 2^38, so that it can be multiplied by a frequency."""

_LOGIT_POINT, _LOG_WEIGHT_POINT, _MEAN_POINT, _LOG_SCALE_POINT = 6, 8, 13, 6
"""Steps of rounding are 2^-6 of a logit, 2^-8 of a log-weight, 2^-13 of a mean, which on [-1, 1] is a sixty-fourth of
one of 256 levels, and 2^-6 of a log-scale."""
_SMALLEST_LOGIT = 24.0
"""Logits and log-weights this far below the largest count as this far: in units of the weights they are 0."""
_MEAN_REACH = 2.0
"""Means are held within this of 0, on [-1, 1]."""
_LOG_SCALES = (-7.0, 4.5)
"""Log-scales are held within these, on [-1, 1]: the least that laws have, and one so large that the law is flat."""
_POINTS = np.array([[_LOG_WEIGHT_POINT], [_MEAN_POINT], [_LOG_SCALE_POINT]])
_LEAST = np.array([[0.0], [-_MEAN_REACH], [0.0]])
_GREATEST = np.array([[_SMALLEST_LOGIT], [_MEAN_REACH], [_LOG_SCALES[1] - _LOG_SCALES[0]]])
"""Of a mixture's log-weights below the largest, means, and log-scales above the least: the points and ranges."""
_OUTSIDE = 1 << 48
"""Stands for an infinite distance, in units of a scale."""
_LARGEST_POINT, _INVERSE_POINT = 20, 28
"""Bits after the point of the largest inverse of a scale, and of the others; products of all stay below 2^63."""
_DISTANCE_SHIFT = _MEAN_POINT + 8 + _INVERSE_POINT - POINT


class IntegerLaw(ABC):
    """Weights of the levels of a batch of sub-pixels."""

    num_levels: int
    batch: int

    @abstractmethod
    def below(self, levels: Int64[np.ndarray, "batch edge"]) -> Int64[np.ndarray, "batch edge"]:
        """Return the sum of the weights below some levels 0 .. num_levels of each sub-pixel, counted from any start.

        It is below 2^38, and never falls from a level to the next.
        """


def integer_law(law: Law, grid: Grid, part: slice | None = None) -> IntegerLaw:
    """Round laws of any batch shape, flattened; laws that agree to within the guard give equal weights.

    `part` selects some of the flattened laws. Raises TypeError for a law that is neither a softmax nor a mixture.
    """
    if isinstance(law, Categorical):
        return IntegerSoftmax(_rows(law.logits, part), grid)
    if isinstance(law, DiscretisedMixture):
        high = None if law.high is None else _rows(law.high[..., None], part)[:, 0].astype(np.int64)
        weights, means, scales = (_rows(each, part) for each in (law.log_weights, law.means, law.log_scales))
        return IntegerMixture(weights, means, scales, law.num_levels, high, law.high_levels, grid)
    raise TypeError(f"expected a softmax or a mixture, got {type(law).__name__}")


class IntegerSoftmax(IntegerLaw):
    """A softmax."""

    def __init__(self, logits: Float64[np.ndarray, "batch level"], grid: Grid) -> None:
        self.batch, self.num_levels = logits.shape
        down = np.minimum(logits.max(-1, keepdims=True) - logits, _SMALLEST_LOGIT)
        weights = exp_of_minus(_as_exponents(grid.round(down, np.array([_LOGIT_POINT])), _LOGIT_POINT))
        self._below = np.zeros((len(logits), self.num_levels + 1), dtype=np.int64)
        np.cumsum(weights, axis=-1, out=self._below[:, 1:])

    def below(self, levels: Int64[np.ndarray, "batch edge"]) -> Int64[np.ndarray, "batch edge"]:
        """Return the sum of the weights below some levels of each sub-pixel."""
        return np.take_along_axis(self._below, levels, axis=1)


class IntegerMixture(IntegerLaw):
    """A discretised mixture of logistics, within the group of levels that the more significant bits select, if known.

    A component's share below an edge is a difference of values of sigmoid(u) / sigmoid(r). The divisor keeps digits
    where a group lies far out in a tail: r is the largest u of the group. If most of the group lies above the mean, u
    is mirrored, because sigmoid has no digits near 1. Components are weighted by the divisor again.
    """

    def __init__(
        self,
        log_weights: Float64[np.ndarray, "batch mixture"],
        means: Float64[np.ndarray, "batch mixture"],
        log_scales: Float64[np.ndarray, "batch mixture"],
        num_levels: int,
        high: Int64[np.ndarray, " batch"] | None,
        high_levels: int,
        grid: Grid,
    ) -> None:
        self.batch, self.num_levels = len(means), num_levels
        self._first = np.zeros(1, dtype=np.int64) if high is None else high * num_levels
        self._last = num_levels * high_levels - 1
        outputs = np.empty((self.batch, 3, means.shape[1]))
        outputs[:, 0] = log_weights.max(-1, keepdims=True) - log_weights
        outputs[:, 1] = means
        outputs[:, 2] = log_scales - _LOG_SCALES[0]
        down, self._means, above_least = grid.round(outputs.clip(_LEAST, _GREATEST), _POINTS).swapaxes(0, 1)
        inverse = exp_of_minus(_as_exponents(above_least, _LOG_SCALE_POINT))
        self._inverse_scales = (inverse * _largest_inverse_scale()) >> (SCALE + _LARGEST_POINT - _INVERSE_POINT)
        if high is None:
            self._sign, self._divisor, self._start = _all_levels()
        else:
            self._sign, self._divisor, self._start = _side(
                self._distances(self._first[:, None] + np.array([0, self.num_levels]))
            )
        down = _as_exponents(down, _LOG_WEIGHT_POINT) - self._divisor[:, 0]
        down -= down.min(-1, keepdims=True)
        # Weights are made smaller before they are multiplied by shares, and their sum after it.
        before = 2 + down.shape[-1].bit_length()
        self._weights, self._after = exp_of_minus(down)[:, None] >> before, 2 * SCALE - 2 - WEIGHT_BITS

    def below(self, levels: Int64[np.ndarray, "batch edge"]) -> Int64[np.ndarray, "batch edge"]:
        """Return the sum of the weights below some levels of each sub-pixel, counted from the start of its group."""
        distances = self._distances(self._first[:, None] + levels)
        shares = np.abs(exp_of_minus(self._divisor - log_sigmoid(distances * self._sign)) - self._start)
        return (self._weights * shares).sum(-1) >> self._after

    def _distances(self, full: Int64[np.ndarray, "batch edge"]) -> Int64[np.ndarray, "batch edge mixture"]:
        """Return the distances of levels' lower edges from each mean, in scales, with 24 bits after the point."""
        # The edge between levels k - 1 and k of 0 .. L is (2 k - 1) / L - 1.
        edges = ((2 * full - 1 - self._last) << (_MEAN_POINT + 8)) // self._last
        distances = ((edges[..., None] - self._means[:, None]) * self._inverse_scales[:, None]) >> _DISTANCE_SHIFT
        distances[full == 0] = -_OUTSIDE
        distances[full > self._last] = _OUTSIDE
        return distances


def _side(
    edges: Int64[np.ndarray, "batch 2 mixture"],
) -> tuple[
    Int64[np.ndarray, "batch 1 mixture"], Int64[np.ndarray, "batch 1 mixture"], Int64[np.ndarray, "batch 1 mixture"]
]:
    """Return each component's sign of u and its divisor in a group with these edges, and its share below the first."""
    sign = np.where(edges.sum(1, keepdims=True) < 0, 1, -1)
    ends = log_sigmoid(edges * sign)
    divisor = ends.max(1, keepdims=True)
    return sign, divisor, exp_of_minus(divisor - ends[:, :1])


@cache
def _all_levels() -> tuple[Int64[np.ndarray, "1 1 1"], Int64[np.ndarray, "1 1 1"], Int64[np.ndarray, "1 1 1"]]:
    """Return the same, of every component, where no bits are known: the group has all levels, and no end."""
    return _side(np.array([[[-_OUTSIDE], [_OUTSIDE]]]))


def _rows(values: Tensor, part: slice | None) -> Float64[np.ndarray, "batch _"]:
    if part is None:
        return values.flatten(0, -2).double().numpy()
    # Not a part of the flattened values: laws may lie component by component, and flattening would copy them all.
    numbers = torch.arange(*part.indices(values.shape[:-1].numel()))
    return values[torch.unravel_index(numbers, values.shape[:-1])].double().numpy()


def _as_exponents(rounded: Int64[np.ndarray, "..."], point: int) -> Int64[np.ndarray, "..."]:
    """Return rounded values with 20 bits after the point, all larger by one step so that none is negative."""
    return (rounded + 256) << (POINT - point - 8)


@cache
def _largest_inverse_scale() -> int:
    """Return 1 / the least scale, e^7, and a step of log-scales more, by which `_as_exponents` made them larger."""
    step = 1 << _LOG_SCALE_POINT
    return exp_fraction(int(-_LOG_SCALES[0]) * step + 1, step, _LARGEST_POINT)
