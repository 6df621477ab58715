"""Exponentials and sigmoids in whole numbers, the same on every machine: tables with linear interpolation.

The tables are rounded from decimal arithmetic, whose exponential and logarithm are correctly rounded by definition.
Interpolation keeps them monotone, so that no level ever gets a negative weight.
"""

import hashlib
from decimal import Decimal, localcontext
from functools import cache

import numpy as np
from jaxtyping import Int64

POINT = 24
"""Exponents are in units of 2^-24."""
SCALE = 30
"""Powers are in units of 2^-30."""
LARGEST = 24
"""The power of any larger exponent is 0 in its unit, and taken as that of this one."""

_STEPS = 9
"""Tables have 2^9 steps for a unit of an exponent, between which they err by less than 1e-6 of a power."""
_REST = POINT - _STEPS
_DIGITS = 30


def exp_of_minus(exponents: Int64[np.ndarray, "..."]) -> Int64[np.ndarray, "..."]:
    """Return e^-x for exponents x >= 0; it never rises with x."""
    return _interpolated(_exponentials(), exponents)


def log_sigmoid(values: Int64[np.ndarray, "..."]) -> Int64[np.ndarray, "..."]:
    """Return log(sigmoid(x)) = min(x, 0) - log(1 + e^-|x|), in units of 2^-24; it never falls with x."""
    return np.minimum(values, 0) - _interpolated(_softplus(), np.abs(values))


def exp_fraction(numerator: int, denominator: int, point: int) -> int:
    """Return e^(numerator / denominator) in units of 2^-point, rounded."""
    with localcontext(prec=_DIGITS):
        return round((Decimal(numerator) / denominator).exp() * (1 << point))


def tables_digest() -> bytes:
    """Return the SHA-256 of the tables."""
    tables = (_exponentials(), _softplus())
    return hashlib.sha256(b"".join(table.astype("<i8").tobytes() for table in tables)).digest()


def _interpolated(table: Int64[np.ndarray, " step"], x: Int64[np.ndarray, "..."]) -> Int64[np.ndarray, "..."]:
    x = np.minimum(x, LARGEST << POINT)
    step = x >> _REST
    value = table[step]
    return value - (((value - table[step + 1]) * (x & ((1 << _REST) - 1))) >> _REST)


@cache
def _exponentials() -> Int64[np.ndarray, " step"]:
    """Return e^-x at every step of x from 0 to `LARGEST`, 0 there, and once more."""
    with localcontext(prec=_DIGITS):
        return _table([(-x).exp() * (1 << SCALE) for x in _places()])


@cache
def _softplus() -> Int64[np.ndarray, " step"]:
    """Return log(1 + e^-x) at the same steps, in units of 2^-24."""
    with localcontext(prec=_DIGITS):
        return _table([(1 + (-x).exp()).ln() * (1 << POINT) for x in _places()])


def _places() -> list[Decimal]:
    return [Decimal(step) / (1 << _STEPS) for step in range(LARGEST << _STEPS)]


def _table(values: list[Decimal]) -> Int64[np.ndarray, " step"]:
    return np.array([*map(round, values), 0, 0], dtype=np.int64)
