"""Powers of e in whole numbers, the same on every machine: the tables are made with whole numbers alone."""

import hashlib
from functools import cache

import numpy as np
from jaxtyping import Int64

POINT = 20
"""Exponents are in units of 2^-20."""
SCALE = 30
"""Powers are in units of 2^-30."""
LARGEST = 24
"""The power of any larger exponent is 0 in its unit, and taken as that of this one."""

_FINE = 12
"""The lowest bits of an exponent, which the table of fine steps is for; the table of coarse steps is for the others."""
_PRECISION = 160
"""Bits after the point while the tables are made."""
_TERMS = 100
"""Terms of the series of an exponential: of exponents below 10, those left out are less than the precision."""


def exp_of_minus(exponents: Int64[np.ndarray, "..."]) -> Int64[np.ndarray, "..."]:
    """Return e^-x for exponents x >= 0."""
    coarse, fine = _tables()
    exponents = np.minimum(exponents, LARGEST << POINT)
    return (coarse[exponents >> _FINE] * fine[exponents & ((1 << _FINE) - 1)]) >> (SCALE + 2)


def exp_fraction(numerator: int, denominator: int, point: int) -> int:
    """Return e^(numerator / denominator) in units of 2^-point, rounded."""
    return _rounded(_exp(numerator, denominator), point)


def tables_digest() -> bytes:
    """Return the SHA-256 of the tables."""
    return hashlib.sha256(b"".join(table.astype("<i8").tobytes() for table in _tables())).digest()


@cache
def _tables() -> tuple[Int64[np.ndarray, " coarse"], Int64[np.ndarray, " fine"]]:
    """Return e^-x for coarse steps of x, and for the fine steps between them, in units of 2^-31."""
    return (
        _powers(1 << (POINT - _FINE), (LARGEST << (POINT - _FINE)) + 1),
        _powers(1 << POINT, 1 << _FINE),
    )


def _powers(steps: int, count: int) -> Int64[np.ndarray, " power"]:
    """Return e^(-i / steps) for i = 0 .. count - 1, in units of 2^-31."""
    step, power, powers = _exp(-1, steps), 1 << _PRECISION, []
    for _ in range(count):
        powers.append(_rounded(power, SCALE + 1))
        power = power * step >> _PRECISION
    return np.array(powers, dtype=np.int64)


def _exp(numerator: int, denominator: int) -> int:
    """Sum the series of e^(numerator / denominator), in units of 2^-160."""
    term = total = 1 << _PRECISION
    for count in range(1, _TERMS):
        term = term * numerator // (denominator * count)
        total += term
    return total


def _rounded(value: int, point: int) -> int:
    return (value + (1 << (_PRECISION - point - 1))) >> (_PRECISION - point)
