"""Whole-number laws: they sum to one, cost what the laws they are made from cost, and ignore last digits."""

import decimal
import math
from typing import Any

import numpy as np
import pytest
import torch

from spn.codec.exponentials import LARGEST, POINT, SCALE, exp_fraction, exp_of_minus, log_sigmoid, tables_digest
from spn.codec.integer_law import integer_law
from spn.codec.rounding import GUARD, OFFSETS, Grid
from spn.codec.symbols import FREQUENCY_BITS, bits_of_symbols, level_of, symbols_of
from spn.likelihood import Categorical, DiscretisedMixture, Law

COUNT = 300


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(mean: float, spread: float, log_scale: float, levels: int, groups: int = 1, count: int = 5) -> Law:
    """Mixtures whose means lie around `mean`, in groups taken in turn."""
    high = None if groups == 1 else torch.arange(COUNT) % groups
    means, scales = mean + spread * normal(COUNT, count, seed=1), log_scale + 0.7 * normal(COUNT, count, seed=2)
    return DiscretisedMixture(normal(COUNT, count), means, scales, levels, high, groups)


LAWS = {
    "softmax": Categorical(3 * normal(COUNT, 256)),
    "softmax of two levels": Categorical(3 * normal(COUNT, 2)),
    "softmax that is nearly sure": Categorical(30 * normal(COUNT, 16)),
    "mixture": mixture(0.0, 0.5, -3.0, 256),
    "mixture of narrow components": mixture(0.0, 0.5, -6.0, 256),
    "mixture of broad components": mixture(0.0, 0.5, 3.0, 256),
    "one component": mixture(0.0, 0.5, -3.0, 32, count=1),
    "mixture of two levels": mixture(0.0, 0.5, -1.0, 2),
    "low bits": mixture(0.0, 0.7, -3.0, 32, groups=8),
    "one low bit": mixture(0.0, 0.7, -1.0, 2, groups=2),
    "groups far out in the tails": mixture(-1.5, 0.1, -4.0, 64, groups=4),
    "groups far out on the other side": mixture(1.5, 0.1, -4.0, 64, groups=4),
    "groups within a broad component": mixture(0.0, 0.5, 4.0, 8, groups=32),
}


def costs(law: Law, levels: np.ndarray, offset: int = 37) -> np.ndarray:
    """Return the bits that the frequencies charge for levels."""
    integers = integer_law(law, Grid(np.array([offset])))
    symbols = list(symbols_of(integers, levels))
    rest = iter(symbols)

    def choose(frequencies: np.ndarray) -> np.ndarray:
        """Check that a decoder, which computes the frequencies of all symbols, has the same interval."""
        value, below, frequency = next(rest)
        assert (frequencies > 0).all()
        assert (frequencies.sum(1) == 1 << FREQUENCY_BITS).all()
        assert np.array_equal(np.take_along_axis(frequencies, value[:, None], 1)[:, 0], frequency)
        ends = np.take_along_axis(frequencies.cumsum(1), value[:, None], 1)[:, 0]
        assert np.array_equal(ends, below + frequency)
        return value

    assert np.array_equal(level_of(integers, choose), levels)
    return sum(FREQUENCY_BITS - np.log2(symbol.frequency) for symbol in symbols)


@pytest.mark.parametrize(
    "offset", [pytest.param(0, marks=pytest.mark.slow), 128, pytest.param(255, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_frequencies_are_those_of_the_law(law: Law, offset: int) -> None:
    probs = law.probs().numpy()
    num_levels = probs.shape[-1]
    cost = np.stack([costs(law, np.full(COUNT, level), offset) for level in range(num_levels)], axis=1)
    assert np.exp2(-cost).sum(1) == pytest.approx(np.ones(COUNT), abs=2e-6)  # but for symbols that cannot occur
    divergence = (probs * (np.log2(np.maximum(probs, 1e-300)) + cost)).sum(1)
    assert divergence.mean() < 1e-4
    assert divergence.max() < 5e-3


def test_a_law_by_hand() -> None:
    """Two levels with logits 0 and ln 3: frequencies 1 : 3, to the step of a logit."""
    (cost,) = costs(Categorical(torch.tensor([[0.0, math.log(3)]])), np.array([0]), offset=0)
    # ln 3 = 1.09861 is 70.3 steps of 1/64, which rounds to 70.
    assert cost == pytest.approx(math.log2(1 + math.exp(70 / 64)), abs=1e-5)


def moved(law: Any, change: float) -> Law:
    """Return a law whose outputs differ in their last digits."""
    if isinstance(law, Categorical):
        return Categorical(law.logits + change * normal(*law.logits.shape, seed=9).sign())
    signs = normal(*law.means.shape, seed=9).sign()
    return DiscretisedMixture(
        law.log_weights + change * signs,
        law.means - change * signs,
        law.log_scales + change * signs,
        law.num_levels,
        law.high,
        law.high_levels,
    )


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_last_digits_make_no_difference(law: Law) -> None:
    grid = Grid(np.zeros(1, dtype=np.int64), notes_edges=True)
    integer_law(law, grid)
    ruled_out = {int(offset) for _, offsets in grid.ruled_out for offset in offsets}
    offset = next(each for each in range(OFFSETS) if each not in ruled_out)
    levels = np.arange(COUNT) % law.probs().shape[-1]
    assert np.array_equal(costs(law, levels, offset), costs(moved(law, 1e-13), levels, offset))
    # What machines differ by is a thousandth of the guard; a tenth of a step is not.
    assert not np.array_equal(costs(law, levels, offset), costs(moved(law, 2e-2), levels, offset))


def test_an_offset_that_brings_a_value_to_an_edge_is_noted() -> None:
    grid = Grid(np.zeros(1, dtype=np.int64), notes_edges=True)
    step = 1 / 64
    # Half a step is an edge at offset 0, a quarter at 64, three quarters at 192.
    grid.round(np.array([[0.5 * step, 0.1 * step], [7.25 * step + GUARD / 2, -3.25 * step - GUARD / 2]]), np.array([6]))
    ((sub_pixels, offsets),) = grid.ruled_out
    assert (sub_pixels.tolist(), offsets.tolist()) == ([0, 1, 1], [0, 64, 192])


@pytest.mark.parametrize(
    "offset", [pytest.param(0, marks=pytest.mark.slow), 128, pytest.param(255, marks=pytest.mark.slow)]
)
def test_values_are_rounded_to_the_moved_grid(offset: int) -> None:
    values = normal(1000, 3).numpy() * 50
    rounded = Grid(np.array([offset])).round(values, np.array([6]))
    assert ((rounded + offset) % OFFSETS == 0).all()
    assert np.abs(rounded / (64 * OFFSETS) - values).max() <= 0.5 / 64 + 1e-12


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_that_are_no_numbers_are_told(value: float) -> None:
    with pytest.raises(FloatingPointError, match=r"^expected finite outputs of the network, got others$"):
        Grid(np.zeros(1, dtype=np.int64)).round(np.array([[0.0, value]]), np.array([6]))


def test_powers_and_sigmoids_are_those_of_decimal_arithmetic() -> None:
    exponents = np.random.default_rng(0).integers(0, LARGEST << POINT, 500)
    with decimal.localcontext(prec=40):
        real = [decimal.Decimal(int(each)) / (1 << POINT) for each in exponents]
        powers = np.array([float((-x).exp()) for x in real])
        sigmoids = np.array([float(-(1 + (-x).exp()).ln()) for x in real])
        assert exp_fraction(449, 64, POINT) == round((decimal.Decimal(449) / 64).exp() * (1 << POINT))
    assert exp_of_minus(exponents) / (1 << SCALE) == pytest.approx(powers, rel=1e-6, abs=2 / (1 << SCALE))
    assert log_sigmoid(exponents) / (1 << POINT) == pytest.approx(sigmoids, abs=1e-6)
    assert log_sigmoid(-exponents) / (1 << POINT) == pytest.approx(sigmoids - exponents / (1 << POINT), abs=1e-6)
    assert exp_of_minus(np.array([0, 1 << 60])).tolist() == [1 << SCALE, 0]


@pytest.mark.parametrize("place", [-(23 << POINT), -(1 << POINT), -3000, 0, 1 << POINT, 11 << POINT, LARGEST << POINT])
def test_tables_are_monotone(place: int) -> None:
    values = place + np.arange(-(1 << 18), 1 << 18)
    assert (np.diff(log_sigmoid(values)) >= 0).all()
    assert (np.diff(exp_of_minus(np.sort(np.abs(values)))) <= 0).all()


def test_bits_are_divided_among_symbols() -> None:
    assert [bits_of_symbols(1 << bits) for bits in range(1, 9)] == [
        [1], [2], [3], [4], [3, 2], [3, 3], [4, 3], [4, 4],
    ]  # fmt: skip


def test_the_tables_are_those_of_every_file_so_far() -> None:
    """A change here would make all files that were ever written unreadable."""
    assert tables_digest().hex()[:16] == "afbc417f6698fc76"


def test_a_law_of_another_kind_is_refused() -> None:
    class Other(Law):
        log_prob = probs = select = tempered = tilted = None  # type: ignore[assignment]

    with pytest.raises(TypeError, match=r"^expected a softmax or a mixture, got Other$"):
        integer_law(Other(), Grid(np.zeros(1, dtype=np.int64)))
