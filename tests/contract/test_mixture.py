"""The discretised mixture of logistics: a law whatever its parameters, in the published order of the channels."""

import itertools

import pytest
import torch
from torch import Tensor

from spn.likelihood import Categorical, DequantisedMixture, DiscretisedMixture, JointMixture, joint_mixture

NUM_MIXTURES = 3


def mixture(num_levels: int, high_levels: int, mean: float, log_scale: float, count: int = 20) -> DiscretisedMixture:
    generator = torch.Generator().manual_seed(1)
    weights, means, log_scales = torch.randn(3, count, NUM_MIXTURES, dtype=torch.float64, generator=generator).unbind(0)
    high = torch.randint(high_levels, (count,), generator=generator) if high_levels > 1 else None
    if high is not None:
        high[:2] = torch.tensor([0, high_levels - 1])
    return DiscretisedMixture(5 * weights, mean * means, log_scale + log_scales, num_levels, high, high_levels)


def parameters_of(law: DiscretisedMixture, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    return law.log_weights.to(dtype), law.means.to(dtype), law.log_scales.to(dtype)


EXTREMES = list(
    itertools.product(((256, 1), (8, 1), (2, 1), (32, 8), (4, 64), (2, 128)), (1.0, 1000.0), (-30.0, -7.0, 8.0))
)


@pytest.mark.parametrize(("levels", "mean", "log_scale"), EXTREMES, ids=str)
def test_probabilities_sum_to_one_at_the_extremes(levels: tuple[int, int], mean: float, log_scale: float) -> None:
    law = mixture(*levels, mean, log_scale)
    each = torch.arange(levels[0]).expand(20, -1)
    scored = torch.stack([law.log_prob(level) for level in each.unbind(1)], dim=1)
    torch.testing.assert_close(scored.exp().sum(1), torch.ones(20, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(law.probs(), scored.exp(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("levels", "mean", "log_scale"), EXTREMES, ids=str)
def test_gradients_are_finite_at_the_extremes(levels: tuple[int, int], mean: float, log_scale: float) -> None:
    law = mixture(*levels, mean, log_scale)
    parameters = [each.requires_grad_() for each in (law.log_weights, law.means, law.log_scales)]
    for level in (0, levels[0] - 1):
        log_prob = law.log_prob(torch.full((20,), level)).sum()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(log_prob, parameters))


def logistic(edge: Tensor, law: DiscretisedMixture) -> Tensor:
    return torch.sigmoid((edge - law.means) / law.log_scales.exp())


def test_a_level_is_the_mass_of_its_bin_and_edges_take_the_tails() -> None:
    law = mixture(8, 1, 0.5, -1.0)
    weights = law.log_weights.softmax(-1)
    for level in range(8):
        below = logistic(torch.tensor((2 * level - 1) / 7 - 1, dtype=torch.float64), law) if level > 0 else 0.0
        above = logistic(torch.tensor((2 * level + 1) / 7 - 1, dtype=torch.float64), law) if level < 7 else 1.0
        expected = (weights * (above - below)).sum(-1)
        torch.testing.assert_close(law.log_prob(torch.full((20,), level)).exp(), expected, atol=1e-14, rtol=0)


def test_low_bits_are_the_whole_law_divided_by_that_of_their_high_bits() -> None:
    law = mixture(4, 8, 0.5, -2.0)
    whole = DiscretisedMixture(law.log_weights, law.means, law.log_scales, 32).probs().unflatten(-1, (8, 4))
    assert law.high is not None
    group = whole[torch.arange(20), law.high]
    torch.testing.assert_close(law.probs(), group / group.sum(-1, keepdim=True), atol=1e-12, rtol=0)


@pytest.mark.parametrize("levels", [(256, 1), (3, 1), (32, 8)], ids=str)
def test_quantiles_are_those_of_the_probabilities(levels: tuple[int, int]) -> None:
    law = mixture(*levels, 0.5, -2.0)
    uniform = torch.rand(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for shift in torch.linspace(0, 0.999, 50, dtype=torch.float64):
        there = (uniform + shift) % 1
        cumulative = law.probs().cumsum(-1)
        expected = torch.searchsorted(cumulative, (there * cumulative[:, -1])[:, None], right=True)[:, 0]
        assert torch.equal(law.quantile(there), expected)


def test_float32_and_half_precision_are_computed_in_float32() -> None:
    exact = mixture(256, 1, 0.5, -3.0)
    law = DiscretisedMixture(*parameters_of(exact, torch.bfloat16), 256)
    levels = torch.arange(20)
    assert law.log_prob(levels).dtype == torch.float32
    reference = DiscretisedMixture(*parameters_of(law, torch.float64), 256)
    torch.testing.assert_close(law.log_prob(levels).double(), reference.log_prob(levels), atol=1e-4, rtol=1e-4)


def random_parameters(channels: int, num_outputs: int) -> Tensor:
    return torch.randn(5, num_outputs, dtype=torch.float64, generator=torch.Generator().manual_seed(channels))


def test_red_shifts_green_and_both_shift_blue() -> None:
    parameters = random_parameters(3, 10)  # one logistic: weight, three means, three log-scales, three coefficients
    values = torch.tensor([[0.2, -0.6, 1.0]], dtype=torch.float64).expand(5, -1)
    law = joint_mixture(parameters, values, num_levels=6)
    _, *means, _, _, _, to_green, to_blue, green_to_blue = parameters.unbind(-1)
    red, green, _ = values.unbind(-1)
    expected = (
        means[0],
        means[1] + torch.tanh(to_green) * red,
        means[2] + torch.tanh(to_blue) * red + torch.tanh(green_to_blue) * green,
    )
    torch.testing.assert_close(law.means[..., 0], torch.stack(expected, dim=-1))


def mass_of_three(level: int, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return a logistic's mass in the bin of one of three levels, whose edges are at -1/2 and 1/2."""
    below = torch.sigmoid((level - 1 - 0.5 - mean) / log_scale.exp()) if level > 0 else torch.zeros_like(mean)
    above = torch.sigmoid((level - 1 + 0.5 - mean) / log_scale.exp()) if level < 2 else torch.ones_like(mean)
    return above - below


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_channels_share_one_indicator(channels: int) -> None:
    num_outputs = 2 * (1 + 2 * channels + channels * (channels - 1) // 2)
    parameters = random_parameters(channels, num_outputs)
    weights, *others = parameters.unflatten(-1, (-1, 2)).unbind(-2)
    means, log_scales, shifts = others[:channels], others[channels : 2 * channels], others[2 * channels :]
    total = torch.zeros(5, dtype=torch.float64)
    for levels in itertools.product(range(3), repeat=channels):
        values = torch.tensor(levels, dtype=torch.float64).expand(5, -1) - 1
        law = joint_mixture(parameters, values, num_levels=3)
        scored = law.log_prob(torch.tensor(levels).expand(5, -1)).sum(-1)
        # Component by component, all channels under the same indicator: green's mean is shifted by red, blue's by both.
        of_both = weights.softmax(-1)
        coefficients = iter(shifts)
        for channel, level in enumerate(levels):
            mean = means[channel] + sum(torch.tanh(next(coefficients)) * (before - 1) for before in levels[:channel])
            of_both = of_both * mass_of_three(level, mean, log_scales[channel])
        torch.testing.assert_close(scored.exp(), of_both.sum(-1), atol=1e-12, rtol=0)
        total += scored.exp()
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-12, rtol=0)


def test_channel_by_channel_gives_the_same_laws() -> None:
    parameters, high = random_parameters(3, 20), torch.tensor([0, 1, 2, 3, 1])[:, None].expand(-1, 3)
    values = torch.tensor([[-0.2, 0.6, 0.1]], dtype=torch.float64).expand(5, -1)
    whole = joint_mixture(parameters, values, 4, high, 4)
    steps = JointMixture(parameters, 3, 4, high, 4)
    for channel in range(3):
        law = steps.law()
        torch.testing.assert_close(law.probs(), whole.probs()[:, channel])
        steps.observe(values[:, channel])


def test_dequantisation_bounds_the_law_from_below() -> None:
    exact = mixture(8, 1, 0.5, -2.0)
    bound = DequantisedMixture(exact.log_weights, exact.means, exact.log_scales, 8)
    torch.manual_seed(0)
    levels = torch.arange(20) % 8
    draws = torch.stack([bound.log_prob(levels) for _ in range(4000)])
    error = draws.std(0) / 4000**0.5
    assert (draws.mean(0) - 3 * error < exact.log_prob(levels)).all()
    assert ((exact.log_prob(levels) - draws.mean(0)) > 3 * error).any()
    assert torch.equal(bound.probs(), exact.probs())
    # Without logarithms it is no bound but an equality, on inner bins.
    inner = (levels > 0) & (levels < 7)
    estimate, spread = draws.exp().mean(0), draws.exp().std(0) / 4000**0.5
    assert ((estimate - exact.log_prob(levels).exp()).abs() < 5 * spread + 1e-12)[inner].all()


def test_temperature_acts_on_the_levels() -> None:
    law = mixture(16, 1, 0.5, -2.0)
    cold = law.tempered(0.5)
    assert isinstance(cold, Categorical)
    squared = law.probs() ** 2
    torch.testing.assert_close(cold.probs(), squared / squared.sum(-1, keepdim=True))


@pytest.mark.parametrize("high_levels", [1, 8])
def test_select_picks_the_mixture_of_one_sub_pixel(high_levels: int) -> None:
    flat = mixture(4, high_levels, 0.5, -2.0, count=2 * 3 * 5 * 2)
    shape = (2, 3, 5, 2)
    high = None if flat.high is None else flat.high.view(shape)
    weights, means, log_scales = (each.view(*shape, NUM_MIXTURES) for each in parameters_of(flat))
    law = DiscretisedMixture(weights, means, log_scales, 4, high, high_levels)
    assert torch.equal(law.select(2, 3, 1).probs(), law.probs()[:, 2, 3, 1])


@pytest.mark.parametrize("high_levels", [1, 8])
def test_probabilities_are_in_float64_whatever_the_parameters(high_levels: int) -> None:
    exact = mixture(4, high_levels, 0.5, -2.0)
    single = DiscretisedMixture(*parameters_of(exact, torch.float32), 4, exact.high, high_levels)
    double = DiscretisedMixture(*parameters_of(single, torch.float64), 4, exact.high, high_levels)
    probs, expected = single.probs(), double.probs()
    assert probs.dtype == torch.float64
    torch.testing.assert_close(probs, expected, atol=1e-14, rtol=0)


def test_a_uniform_at_the_edge_of_a_level_belongs_to_the_level_above() -> None:
    # One logistic, its mean halfway between the two levels: exactly half of the mass is below.
    zeros = torch.zeros(2, 2, 1, dtype=torch.float64)
    uniforms = torch.tensor([[0.0, 0.5 - 2**-53], [0.5, 1 - 2**-53]], dtype=torch.float64)
    assert DiscretisedMixture(zeros, zeros, zeros, 2).quantile(uniforms).tolist() == [[0, 0], [1, 1]]


def test_a_joint_mixture_of_half_precision_is_computed_in_float32() -> None:
    parameters = random_parameters(3, 20).bfloat16()
    values = torch.tensor([[-0.2, 0.6, 0.1]]).expand(5, -1)
    low, single = (joint_mixture(each, values, 256) for each in (parameters, parameters.float()))
    assert low.means.dtype == torch.float32
    levels = torch.tensor([100, 200, 140]).expand(5, -1)
    assert torch.equal(low.log_prob(levels), single.log_prob(levels))
