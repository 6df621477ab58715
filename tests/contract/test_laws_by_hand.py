"""Mixtures, with and without high bits, against references in NumPy; and what a stage makes of laws and levels."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from spn.config import StagePlan
from spn.likelihood import DequantisedMixture, DiscretisedMixture, JointMixture, Law, PlacedMixture, joint_mixture
from spn.models import Context, Model
from spn.stages import Stage

Array = NDArray[np.float64]

LEVELS, GROUPS, MIXTURES = 4, 8, 2
"""Two low bits below three high ones: the mixture lies on a scale of 32 levels."""


def logistic(value: float, mean: Array, log_scale: Array) -> Array:
    return 1 / (1 + np.exp(-(value - mean) / np.exp(log_scale)))


def mass(first: int, end: int, last: int, mean: Array, log_scale: Array) -> Array:
    """Return each logistic's mass in the bins first .. end - 1 of a scale whose last level is `last`."""
    below = logistic((2 * first - 1) / last - 1, mean, log_scale) if first > 0 else np.zeros_like(mean)
    above = logistic((2 * end - 1) / last - 1, mean, log_scale) if end <= last else np.ones_like(mean)
    return above - below


def softmax(logits: Array) -> Array:
    return np.exp(logits) / np.exp(logits).sum()


def pixel_probability(
    outputs: Array, levels: tuple[int, ...], high: tuple[int, ...] | None, placed: bool = False
) -> float:
    """Return the probability of a pixel's levels, given the more significant bits of each of its channels.

    `outputs` are a network's: logits of the indicator, then each channel's means, then its log-scales, then the
    coefficients of blue's red, ... in the published order; MIXTURES of each. `placed`: see `PlacedMixture`.
    """
    channels, groups = len(levels), 1 if high is None else GROUPS
    parts = list(outputs.reshape(-1, MIXTURES))
    indicator, means, log_scales = softmax(parts[0]), parts[1 : 1 + channels], parts[1 + channels : 1 + 2 * channels]
    coefficients = iter(parts[1 + 2 * channels :])
    last, values, probability = LEVELS * groups - 1, list[float](), 1.0
    for channel in range(channels):
        mean = means[channel] + sum(np.tanh(next(coefficients)) * value for value in values)
        first = 0 if high is None else high[channel] * LEVELS
        full = first + levels[channel]
        middle, half, log_scale = 0.0, 1.0, log_scales[channel]
        if placed:
            # Two components, spread from -0.7 to 0.7 of half a group around its middle.
            middle, half = (0.0, 1.0) if high is None else ((2 * high[channel] + 1) / GROUPS - 1, 1 / GROUPS)
            mean = middle + half * (mean + np.array([-0.7, 0.7]))
            log_scale = log_scale + (-2 if high is None else math.log(half))
        of_level = mass(full, full + 1, last, mean, log_scale)
        of_group = mass(first, first + LEVELS, last, mean, log_scale)
        probability *= (indicator * of_level).sum() / (indicator * of_group).sum()
        indicator = indicator * of_level / (indicator * of_level).sum()
        values.append((2 * full / last - 1 - middle) / half)
    return probability


def network_outputs(channels: int, seed: int, placed: bool = False) -> Array:
    count = MIXTURES * (1 + 2 * channels + channels * (channels - 1) // 2)
    outputs = np.random.default_rng(seed).normal(size=count)
    # Log-scales of a few bins: placed mixtures are narrow as it is.
    outputs[MIXTURES * (1 + channels) : MIXTURES * (1 + 2 * channels)] += 0.5 if placed else -1.5
    return outputs


def highs(channels: int) -> list[tuple[int, ...] | None]:
    rows = [(0,) * channels, (GROUPS - 1,) * channels, (3, 0, 5)[:channels], (4, 7, 2)[:channels]]
    return [None, *rows]


@pytest.mark.parametrize("kind", [DiscretisedMixture, PlacedMixture])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("place", range(5))
def test_a_joint_mixture_is_that_by_hand(channels: int, place: int, kind: type[DiscretisedMixture]) -> None:
    high, outputs = highs(channels)[place], network_outputs(channels, place, kind is PlacedMixture)
    groups = 1 if high is None else GROUPS
    first = None if high is None else torch.tensor(high)
    total = 0.0
    for levels in itertools.product(range(LEVELS), repeat=channels):
        full = torch.tensor(levels) + (0 if first is None else first * LEVELS)
        values = 2 * full.double() / (LEVELS * groups - 1) - 1
        law = joint_mixture(torch.from_numpy(outputs), values, LEVELS, first, groups, kind)
        expected = pixel_probability(outputs, levels, high, kind is PlacedMixture)
        assert law.log_prob(torch.tensor(levels)).sum().exp().item() == pytest.approx(expected, rel=1e-9)
        total += expected
    assert total == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("kind", [DiscretisedMixture, PlacedMixture])
@pytest.mark.parametrize("place", range(5))
def test_channel_by_channel_it_is_that_by_hand_too(place: int, kind: type[DiscretisedMixture]) -> None:
    high, outputs, levels = highs(3)[place], network_outputs(3, place, kind is PlacedMixture), (1, 3, 0)
    groups = 1 if high is None else GROUPS
    known = None if high is None else torch.tensor(high)
    steps = JointMixture(torch.from_numpy(outputs), 3, LEVELS, known, groups, kind)
    product = 1.0
    for channel, level in enumerate(levels):
        product *= steps.law().probs()[level].item()
        full = level + (0 if high is None else high[channel] * LEVELS)
        steps.observe(torch.tensor(2 * full / (LEVELS * groups - 1) - 1, dtype=torch.float64))
    assert product == pytest.approx(pixel_probability(outputs, levels, high, kind is PlacedMixture), rel=1e-9)


def lone(law: type[DiscretisedMixture], high: int | None, seed: int) -> tuple[Any, tuple[Array, Array, Array]]:
    """Build the law of one sub-pixel, and the parameters that it has."""
    logits, means, log_scales = np.random.default_rng(seed).normal(size=(3, MIXTURES))
    log_scales -= 1.5
    tensors = (torch.from_numpy(logits), torch.from_numpy(means), torch.from_numpy(log_scales))
    first, groups = (None, 1) if high is None else (torch.tensor(high), GROUPS)
    return law(*tensors, LEVELS, first, groups), (softmax(logits), means, log_scales)


@pytest.mark.parametrize("high", [None, 0, 3, GROUPS - 1])
def test_a_mixture_is_that_by_hand(high: int | None) -> None:
    law, (weights, means, log_scales) = lone(DiscretisedMixture, high, seed=1)
    first, last = (0, LEVELS - 1) if high is None else (high * LEVELS, LEVELS * GROUPS - 1)
    masses = [
        (weights * mass(first + level, first + level + 1, last, means, log_scales)).sum() for level in range(LEVELS)
    ]
    expected = np.array(masses) / sum(masses)
    np.testing.assert_allclose(law.probs().numpy(), expected, rtol=1e-10)
    uniforms = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 0.999])
    parameters = (law.log_weights.expand(6, -1), law.means.expand(6, -1), law.log_scales.expand(6, -1))
    known = None if high is None else torch.full((6,), high)
    drawn = DiscretisedMixture(*parameters, LEVELS, known, law.high_levels).quantile(torch.from_numpy(uniforms))
    assert drawn.tolist() == np.searchsorted(np.cumsum(expected), uniforms, side="right").tolist()


@pytest.mark.parametrize("high", [None, 0, 3, GROUPS - 1])
def test_a_dequantised_mixture_is_the_density_over_the_mass_of_its_group(high: int | None) -> None:
    law, (weights, means, log_scales) = lone(DequantisedMixture, high, seed=2)
    first, last = (0, LEVELS - 1) if high is None else (high * LEVELS, LEVELS * GROUPS - 1)
    of_group = 1.0 if high is None else (weights * mass(first, first + LEVELS, last, means, log_scales)).sum()
    for level in range(LEVELS):
        torch.manual_seed(level)
        noise = torch.rand((), dtype=torch.float64).item()
        torch.manual_seed(level)
        actual = law.log_prob(torch.tensor(level)).item()
        at = logistic((2 * (first + level + noise) - 1) / last - 1, means, log_scales)
        density = at * (1 - at) / np.exp(log_scales)
        # In a bin of a width of 2 / last.
        assert actual == pytest.approx(math.log((weights * density).sum() * 2 / last / of_group), rel=1e-9)


# Stages.


def plan(bits: tuple[int, int]) -> StagePlan:
    return StagePlan("stage", 2, 5, bits, ((0, 0), (0, 1), (1, 0), (1, 1)), ((0, 0), (0, 0)))


class Constant(Law):
    """The same log-probability for every sub-pixel, in float32."""

    def __init__(self, value: float) -> None:
        self.value = value

    def log_prob(self, levels: Tensor) -> Tensor:
        return torch.full(levels.shape, self.value, dtype=torch.float32)

    probs = select = tempered = tilted = quantile = None  # type: ignore[assignment]


class Unmoved(Model):
    """A model whose laws are constant."""

    embed_target = embed_context = laws = steps = None  # type: ignore[assignment]

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, levels: Tensor, context: Context) -> Law:
        return Constant(self.value)


def test_nats_of_a_slice_are_summed_in_float64() -> None:
    stage = Stage(plan((0, 5)), (512, 512, 1))
    slices = torch.zeros(1, 2, 2, 256, 256, 1, dtype=torch.uint8)
    value = float(np.float32(-0.1))
    nats = stage.nats(Unmoved(value), slices, stage.positions((0, 1), 1))
    assert nats.dtype == torch.float64
    assert nats.item() == pytest.approx(-value * 65536, rel=1e-13)


@pytest.mark.parametrize("bits", [(0, 2), (2, 5), (1, 4), (0, 5)])
def test_inserted_bits_replace_those_that_were_there(bits: tuple[int, int]) -> None:
    stage = Stage(plan(bits), (4, 4, 1))
    mask = sum(1 << (4 - bit) for bit in range(*bits))
    for old, level in itertools.product((0, 0b11111, 0b10101), (0, 1, (1 << (bits[1] - bits[0])) - 1)):
        slices = torch.full((3, 2, 2, 2, 2, 1), old, dtype=torch.uint8)
        kept = slices.clone()
        filled = stage.insert(slices, (1, 0), torch.full((3, 2, 2, 1), level))
        assert torch.equal(slices, kept)
        expected = kept.clone()
        expected[:, 1, 0] = (old & ~mask & 0b11111) | (level << (5 - bits[1]))
        assert torch.equal(filled, expected)
        assert (stage.target(filled, stage.positions((1, 0), 3)) == level).all()
