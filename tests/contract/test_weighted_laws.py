"""What weights of the levels do to every law: they tilt it, and weigh its log-probabilities."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from spn.likelihood import Categorical, Chunked, DequantisedMixture, DiscretisedMixture, Law, PlacedMixture, chunked

SHAPE, LEVELS, HIGH_LEVELS = (2, 3, 4, 3), 5, 4
"""Of laws [batch, height, width, channel], and numbers of levels."""
EXACTLY: dict[str, Any] = {"atol": 1e-12, "rtol": 0.0}

Parameters = Tensor
"""Of three numbers for each level of each law, enough for every law."""
Build = Callable[[Parameters], Law]


@pytest.fixture(autouse=True)
def _five_pixels_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "PIXELS", {"cpu": 5})


def categorical(parameters: Parameters) -> Law:
    return Categorical(parameters[..., 0])


def in_chunks(parameters: Parameters) -> Law:
    return Chunked(parameters.flatten(-3), lambda pixels: categorical(pixels.unflatten(-1, (SHAPE[3], LEVELS, 3))))


def made_again(parameters: Parameters) -> Law:
    law = in_chunks(parameters)
    assert isinstance(law, Chunked)
    return Chunked(law.features, law.head, recompute=True)


def cooled_in_chunks(parameters: Parameters) -> Law:
    return in_chunks(parameters).tempered(0.7)


def mixture(kind: type[DiscretisedMixture], has_high: bool) -> Build:
    def build(parameters: Parameters) -> Law:
        high = torch.arange(SHAPE[0] * SHAPE[1] * SHAPE[2] * SHAPE[3]).view(SHAPE) % HIGH_LEVELS if has_high else None
        weights, means, log_scales = parameters.unbind(-1)
        return kind(weights, means, log_scales, LEVELS, high, HIGH_LEVELS if has_high else 1)

    return build


LAWS: dict[str, Build] = {
    "categorical": categorical,
    "in_chunks": in_chunks,
    "made_again": made_again,
    "cooled_in_chunks": cooled_in_chunks,
    "mixture": mixture(DiscretisedMixture, has_high=False),
    "mixture_of_low_bits": mixture(DiscretisedMixture, has_high=True),
    "placed": mixture(PlacedMixture, has_high=True),
    "dequantised": mixture(DequantisedMixture, has_high=False),
}


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*SHAPE, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights_with_zeros() -> Tensor:
    return drawn(3, LEVELS).clamp(min=0)


def level_by_level(law: Law, weights: Tensor) -> Tensor:
    return sum(
        (weights[..., level] * law.log_prob(torch.full(SHAPE, level)) for level in range(LEVELS)), torch.zeros(SHAPE)
    )


@pytest.mark.parametrize("build", LAWS.values(), ids=LAWS)
def test_the_expected_log_probability_is_the_weighted_sum_with_its_gradients(build: Build) -> None:
    parameters, weights = drawn(1, LEVELS, 3).requires_grad_(), weights_with_zeros().requires_grad_()
    found = []
    for expect in (lambda law: law.expected_log_prob(weights), lambda law: level_by_level(law, weights)):
        torch.manual_seed(1)  # a dequantised law draws noise, level by level
        expected = expect(build(parameters))
        assert expected.shape == SHAPE
        (gradient,) = torch.autograd.grad((expected * drawn(2)).sum(), parameters)
        found.append((expected.detach(), gradient))
    for actual, reference in zip(*found, strict=True):
        torch.testing.assert_close(actual, reference, **EXACTLY)


@pytest.mark.parametrize("build", [categorical, in_chunks, made_again])
def test_a_weight_of_zero_contributes_nothing_even_if_the_level_is_impossible(build: Build) -> None:
    parameters = drawn(1, LEVELS, 3)
    parameters[..., 2, 0] = -torch.inf
    weights = drawn(3, LEVELS).abs()
    weights[..., 2] = 0
    parameters.requires_grad_()
    others = [level for level in range(LEVELS) if level != 2]
    expected = level_by_level_of(build(parameters), weights, others)
    for law in (build(parameters), WithoutItsOwn(build(parameters))):
        actual = law.expected_log_prob(weights)
        torch.testing.assert_close(actual, expected, **EXACTLY)
        (gradient,) = torch.autograd.grad(actual.sum(), parameters)
        assert gradient.isfinite().all()


def level_by_level_of(law: Law, weights: Tensor, levels: list[int]) -> Tensor:
    return torch.stack([weights[..., each] * law.log_prob(torch.full(SHAPE, each)) for each in levels]).sum(0)


class WithoutItsOwn(Law):
    """A law whose expected log-probability is the default, level by level."""

    def __init__(self, law: Law) -> None:
        self.law = law

    def log_prob(self, levels: Tensor) -> Tensor:
        return self.law.log_prob(levels)

    probs = select = tempered = tilted = None  # type: ignore[assignment]


def test_the_expectation_of_half_precision_is_of_float32() -> None:
    logits, weights = drawn(1, LEVELS).bfloat16(), weights_with_zeros().float()
    expected = Categorical(logits.double()).expected_log_prob(weights.double())
    actual = Categorical(logits).expected_log_prob(weights)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("build", LAWS.values(), ids=LAWS)
def test_a_tilted_law_has_the_weighted_probabilities(build: Build) -> None:
    law, log_weights = build(drawn(1, LEVELS, 3)), drawn(4, LEVELS)
    weighted = law.probs() * log_weights.exp()
    expected = weighted / weighted.sum(-1, keepdim=True)
    tilted = law.tilted(log_weights)
    torch.testing.assert_close(tilted.probs(), expected, **EXACTLY)
    torch.testing.assert_close(tilted.select(1, 2, 0).probs(), expected[:, 1, 2, 0], **EXACTLY)
    for level in range(LEVELS):
        log_prob = tilted.log_prob(torch.full(SHAPE, level))
        torch.testing.assert_close(log_prob.exp(), expected[..., level], **EXACTLY)
    # Tilted twice, and at a temperature, which divides the weights' logarithms too.
    torch.testing.assert_close(tilted.tilted(-log_weights).probs(), law.probs(), **EXACTLY)
    cooled = expected ** (1 / 0.5)
    torch.testing.assert_close(tilted.tempered(0.5).probs(), cooled / cooled.sum(-1, keepdim=True), **EXACTLY)
    uniforms = torch.rand(SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert torch.equal(tilted.quantile(uniforms), Categorical(expected.log()).quantile(uniforms))


@pytest.mark.parametrize("build", LAWS.values(), ids=LAWS)
def test_a_tilted_law_has_gradients(build: Build) -> None:
    parameters, log_weights = drawn(1, LEVELS, 3).requires_grad_(), drawn(4, LEVELS)
    levels = torch.arange(2 * 3 * 4 * 3).view(SHAPE) % LEVELS
    (actual,) = torch.autograd.grad(build(parameters).tilted(log_weights).log_prob(levels).sum(), parameters)
    plain = build(parameters).probs().log() + log_weights
    expected_log_prob = plain.log_softmax(-1).gather(-1, levels[..., None]).sum()
    (expected,) = torch.autograd.grad(expected_log_prob, parameters)
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=0)


def test_logits_of_half_precision_are_tilted_in_float32() -> None:
    logits, log_weights = drawn(1, LEVELS).bfloat16(), drawn(4, LEVELS).float()
    exact = Categorical(logits.double()).tilted(log_weights.double())
    torch.testing.assert_close(Categorical(logits).tilted(log_weights).probs(), exact.probs(), atol=1e-6, rtol=0)
