"""The law of a sub-pixel: one distribution, whichever way it is asked."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spn.likelihood import Categorical, bits_per_dim

LEVELS = 5


def law(*batch: int, dtype: torch.dtype = torch.float64, scale: float = 2.0) -> Categorical:
    generator = torch.Generator().manual_seed(0)
    return Categorical((scale * torch.randn(*batch, LEVELS, generator=generator, dtype=torch.float64)).to(dtype))


@pytest.fixture(params=["as it is", "for a compiler"])
def formula(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take each of the formulas of a logarithm of a probability."""
    if request.param == "for a compiler":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


@pytest.mark.usefixtures("formula")
def test_probs_sum_to_one_and_are_those_of_log_prob() -> None:
    laws = law(2, 3, 4)
    probs = laws.probs()
    torch.testing.assert_close(probs.sum(-1), torch.ones(2, 3, 4, dtype=torch.float64), atol=1e-14, rtol=0)
    for level in range(LEVELS):
        log_probs = laws.log_prob(torch.full((2, 3, 4), level))
        torch.testing.assert_close(log_probs.exp(), probs[..., level], atol=1e-14, rtol=0)


def test_log_prob_is_in_nats() -> None:
    assert Categorical(torch.zeros(1, 8)).log_prob(torch.tensor([3])).item() == pytest.approx(-math.log(8))


def test_quantile_inverts_the_cumulative_distribution() -> None:
    laws = law(7)
    cumulative = laws.probs().cumsum(-1)
    for uniform in torch.linspace(0, 1, 2001, dtype=torch.float64)[:-1]:
        levels = laws.quantile(uniform.expand(7))
        upper = cumulative.gather(-1, levels[:, None])[:, 0]
        lower = upper - laws.probs().gather(-1, levels[:, None])[:, 0]
        assert (lower - 1e-12 <= uniform).all()
        assert (uniform <= upper + 1e-12).all()


def test_quantile_is_of_each_law_by_itself_whatever_the_batch() -> None:
    laws = law(2, 3)
    uniforms = torch.rand(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alone = [
        Categorical(laws.logits[i, j][None]).quantile(uniforms[i, j][None]).item() for i in (0, 1) for j in range(3)
    ]
    assert laws.quantile(uniforms).flatten().tolist() == alone


def test_every_level_is_chosen_as_often_as_it_is_probable() -> None:
    laws = law(1)
    uniforms = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    levels = Categorical(laws.logits.expand(100_000, -1)).quantile(uniforms)
    shares = torch.bincount(levels, minlength=LEVELS) / 100_000
    torch.testing.assert_close(shares.double(), laws.probs()[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("uniform", [0.0, 0.3, 0.5, 1 - 2**-53])
@given(impossible=st.sets(st.integers(0, LEVELS - 1), max_size=LEVELS - 1), seed=st.integers(0, 99))
def test_a_level_of_probability_zero_is_never_chosen(uniform: float, impossible: set[int], seed: int) -> None:
    logits = torch.randn(1, LEVELS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits[:, sorted(impossible)] = -math.inf
    (level,) = Categorical(logits).quantile(torch.tensor([uniform], dtype=torch.float64)).tolist()
    assert level in set(range(LEVELS)) - impossible


def test_select_picks_one_sub_pixel() -> None:
    laws = law(2, 3, 4, 3)
    assert torch.equal(laws.select(1, 2, 0).probs(), laws.probs()[:, 1, 2, 0])


@pytest.mark.parametrize("temperature", [1e-300, 1e-3, 0.5, 1.0, 2.0, 1e300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_tempered_law_is_a_law(temperature: float, dtype: torch.dtype) -> None:
    laws = law(3, dtype=dtype).tempered(temperature)
    torch.testing.assert_close(laws.probs().sum(-1), torch.ones(3, dtype=torch.float64), atol=1e-12, rtol=0)
    levels = torch.tensor([0, 1, 2])
    torch.testing.assert_close(laws.log_prob(levels).double().exp(), laws.probs()[range(3), levels], atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [1e9, -1e9])
def test_the_coldest_law_of_logits_however_large_is_their_largest(size: float) -> None:
    # Divided by the temperature as they are, these would be infinite; and so would the distance to another law's.
    logits = law(2, 3).logits
    offsets = torch.zeros(2, 3, 1, dtype=torch.float64)
    offsets[1, 2] = size
    probs = Categorical(logits + offsets).tempered(1e-300).probs()
    assert torch.equal(probs, torch.nn.functional.one_hot(logits.argmax(-1), LEVELS).double())


def test_temperature_divides_log_probabilities() -> None:
    laws = law(3)
    powers = laws.probs() ** (1 / 0.7)
    torch.testing.assert_close(laws.tempered(0.7).probs(), powers / powers.sum(-1, keepdim=True))


def test_temperature_sharpens_and_flattens() -> None:
    def entropies(temperature: float) -> torch.Tensor:
        return torch.special.entr(law(20).tempered(temperature).probs()).sum(-1)

    assert (entropies(0.5) < entropies(1.0)).all()
    assert (entropies(1.0) < entropies(2.0)).all()
    cold, hot = law(20).tempered(1e-4).probs(), law(20).tempered(1e6).probs()
    assert torch.equal(cold.argmax(-1), law(20).probs().argmax(-1))
    assert (cold.amax(-1) > 0.999).all()
    torch.testing.assert_close(hot, torch.full_like(hot, 1 / LEVELS), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("formula")
def test_logits_of_low_precision_are_normalised_in_float32() -> None:
    low = law(200, dtype=torch.bfloat16, scale=4.0)
    exact = Categorical(low.logits.double())
    for level in range(LEVELS):
        levels = torch.full((200,), level)
        log_prob = low.log_prob(levels)
        assert log_prob.dtype == torch.float32
        torch.testing.assert_close(log_prob.double(), exact.log_prob(levels), atol=1e-5, rtol=0)
    torch.testing.assert_close(low.probs(), exact.probs(), atol=0, rtol=0)


@pytest.mark.usefixtures("formula")
def test_float64_stays_float64() -> None:
    assert law(2).log_prob(torch.tensor([0, 1])).dtype == torch.float64


@pytest.mark.usefixtures("formula")
def test_the_loss_has_the_gradient_of_cross_entropy() -> None:
    logits = law(1).logits.requires_grad_()
    Categorical(logits).log_prob(torch.tensor([2])).sum().backward()
    expected = -logits.detach().softmax(-1)
    expected[0, 2] += 1
    torch.testing.assert_close(logits.grad, expected)


def test_bits_per_dim_of_uniform_levels_is_their_number_of_bits() -> None:
    assert bits_per_dim(12 * math.log(256), num_dims=12) == pytest.approx(8)


def test_bits_per_dim_of_stages_add_up() -> None:
    stages = [3.5, 0.25, 11.0]
    assert bits_per_dim(sum(stages), 48) == pytest.approx(sum(bits_per_dim(nats, 48) for nats in stages))
