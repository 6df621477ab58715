"""Functions with gradients of their own: against the plain formulas, in values and in gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spn.layers import GatedResnet, RasterTransformer, Recomputing, ShiftedUpsampling, Stream
from spn.layers.elementwise import Dropout, concat_elu, gate, gated_residual, shared_concat_elu
from spn.likelihood import DiscretisedMixture
from spn.likelihood.mixture import _logsumexp
from spn.machine import onednn_matmul

MARGINS = [(0, 0, 0), (1, 1, 1), (1, 0, 1), (0, 0, 1), (2, 3, 0)]
Function = Callable[[Tensor], Tensor]


def plain_concat_elu(features: Tensor, margins: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
    left, right, above = margins
    both = F.elu(torch.cat((features, -features), dim=-1))
    return F.pad(both, (0, 0, left, right, above, 0)) if any(margins) else both


def plain_gate(features: Tensor, num_groups: int) -> Tensor:
    values, openness = features.unflatten(-1, (num_groups, 2, -1)).unbind(-2)
    return (values.tanh() * openness.sigmoid()).flatten(-2)


def draws(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_edges(*shape: int) -> Tensor:
    """Draw values, among them 0, minute, and huge ones."""
    values = draws(*shape)
    values.view(-1)[:7] = torch.tensor([0.0, -0.0, 1e-9, -1e-9, 1e3, -1e3, 1e300])
    return values


def layouts(values: Tensor) -> dict[str, Tensor]:
    """Lay out [batch, height, width, feature] in memory in several ways."""
    return {
        "contiguous": values.clone(),
        "planes": values.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "strided": torch.stack((values, values + 1), dim=-1)[..., 0],
        "expanded": values[:1].expand(values.shape),
    }


def assert_same(function: Function, plain: Function, inputs: Tensor) -> None:
    """Compare values and gradients."""
    results: list[Tensor] = []
    gradients: list[Tensor] = []
    for each in (function, plain):
        leaf = inputs.detach().requires_grad_()
        results.append(each(leaf))
        weights = draws(*results[-1].shape, seed=2).to(inputs.dtype)
        gradients += torch.autograd.grad((results[-1] * weights).sum(), leaf)
    torch.testing.assert_close(*results, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(*gradients, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("layout", ["contiguous", "planes", "strided", "expanded"])
@pytest.mark.parametrize("margins", MARGINS)
def test_concat_elu_is_the_plain_formula(margins: tuple[int, int, int], layout: str) -> None:
    features = layouts(with_edges(2, 3, 4, 5))[layout]
    assert_same(lambda each: concat_elu(each, margins), lambda each: plain_concat_elu(each, margins), features)


def test_concat_elu_takes_single_pixels() -> None:
    assert_same(concat_elu, plain_concat_elu, with_edges(3, 5))


def test_concat_elu_has_the_gradient_of_its_values() -> None:
    features = draws(2, 3, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda each: concat_elu(each, (1, 1, 1)), features)


@pytest.mark.parametrize("read", ["padded", "plain", "both"])
@pytest.mark.parametrize("margins", [(1, 1, 1), (1, 0, 1)])
def test_a_shared_concat_elu_is_the_plain_formula_for_every_layer_that_reads_it(
    margins: tuple[int, int, int], read: str
) -> None:
    def of(padded: Tensor, plain: Tensor) -> Tensor:
        return torch.cat(
            [each.flatten() for each, name in ((padded, "padded"), (plain, "plain")) if read in (name, "both")]
        )

    assert_same(
        lambda each: of(*shared_concat_elu(each, margins)),
        lambda each: of(plain_concat_elu(each, margins), plain_concat_elu(each)),
        with_edges(2, 3, 4, 5),
    )


@pytest.mark.parametrize("kernel", [(2, 3), (2, 2)])
@pytest.mark.parametrize("num_beside", [0, 1, 2])
def test_a_block_shares_what_it_reads_and_computes_the_same(kernel: tuple[int, int], num_beside: int) -> None:
    torch.manual_seed(0)
    block = GatedResnet(6, kernel, 6 * num_beside, 0, 0.0).double()
    margins = (1, kernel[1] - 2, 1)
    every = [draws(2, 4, 4, 6, seed=seed).requires_grad_() for seed in range(1 + num_beside)]
    features, *beside = every

    def gradients(result: Tensor) -> list[Tensor]:
        return [result, *torch.autograd.grad(result.square().sum(), [*every, *block.parameters()])]

    streams = [Stream(each, margins) for each in every]
    expected = gradients(block(features, [torch.cat(beside, dim=-1)] if beside else [], None))
    actual = gradients(block.advance(streams[0], streams[1:], None))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_concat_elu_passes_on_what_is_not_a_number() -> None:
    assert concat_elu(torch.tensor([[torch.nan, 1.0]])).isnan().tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("width", [1, 5, 16, 24, 48, 64])
def test_concat_elu_of_a_pixel_does_not_depend_on_its_neighbours(width: int) -> None:
    features = draws(3, 3, 5, width).float()
    alone = [concat_elu(pixel[None]) for pixel in features.flatten(0, 2)]
    assert torch.equal(concat_elu(features).flatten(0, 2), torch.cat(alone))


@pytest.mark.parametrize("rate", [0.5, 0.1])
@pytest.mark.parametrize("margins", [(0, 0, 0), (1, 0, 1)])
def test_concat_elu_with_dropout_keeps_a_share_and_scales_it(margins: tuple[int, int, int], rate: float) -> None:
    features = draws(4, 16, 16, 8)
    torch.manual_seed(3)
    kept = concat_elu(features, margins, rate) != 0

    def dropped(each: Tensor) -> Tensor:
        torch.manual_seed(3)
        return concat_elu(each, margins, rate)

    assert_same(dropped, lambda each: plain_concat_elu(each, margins) * kept / (1 - rate), features)
    left, right, above = margins
    inner = kept[:, above:, left : kept.shape[2] - right]
    assert inner.double().mean().item() == pytest.approx(1 - rate, abs=0.01)


@pytest.mark.parametrize("num_groups", [1, 3])
@pytest.mark.parametrize("layout", ["contiguous", "planes", "strided", "expanded"])
def test_gate_is_the_plain_formula(layout: str, num_groups: int) -> None:
    features = layouts(with_edges(2, 3, 4, 12))[layout]
    assert_same(lambda each: gate(each, num_groups), lambda each: plain_gate(each, num_groups), features)


def test_gate_has_the_gradient_of_its_values() -> None:
    features = draws(2, 12).requires_grad_()
    assert torch.autograd.gradcheck(lambda each: gate(each, 3), features)


@pytest.mark.parametrize("shape", [(1, 12), (1, 1, 1, 12), (2, 12)], ids=str)
def test_gate_leaves_what_it_reads_as_it_is(shape: tuple[int, ...]) -> None:
    features = draws(*shape)
    before = features.clone()
    gate(features, 1)
    assert torch.equal(features, before)


def test_gate_is_within_two_units_of_float32() -> None:
    features = torch.linspace(-9, 9, 4000)
    single, double = gate(features, 1000), gate(features.double(), 1000)
    torch.testing.assert_close(single.double(), double, rtol=0, atol=2 * torch.finfo(torch.float32).eps)


def plain_gated_residual(both: Tensor) -> Tensor:
    features, values, openness = both.split((4, 4, 4), dim=-1)
    return features + values * openness.sigmoid()


@pytest.mark.parametrize("layout", ["contiguous", "planes", "strided", "expanded"])
def test_gated_residual_is_the_plain_formula(layout: str) -> None:
    both = layouts(with_edges(2, 3, 4, 12))[layout]
    before = both.clone()
    assert_same(lambda each: gated_residual(*each.split((4, 8), dim=-1)), plain_gated_residual, both)
    assert torch.equal(both, before)
    with torch.no_grad():
        torch.testing.assert_close(gated_residual(*both.split((4, 8), dim=-1)), plain_gated_residual(both))


def test_gated_residual_has_the_gradient_of_its_values() -> None:
    inputs = draws(2, 3, 4).requires_grad_(), draws(2, 3, 8, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(gated_residual, inputs)


@pytest.mark.parametrize("of_features", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("of_gates", [torch.float32, torch.bfloat16])
def test_gated_residual_of_two_types_is_of_the_finer_one(of_features: torch.dtype, of_gates: torch.dtype) -> None:
    features, gates = draws(2, 3, 4).to(of_features).requires_grad_(), draws(2, 3, 8).to(of_gates).requires_grad_()
    result = gated_residual(features, gates)
    assert result.dtype == torch.promote_types(of_features, of_gates)
    assert [each.dtype for each in torch.autograd.grad(result.sum(), (features, gates))] == [of_features, of_gates]
    plain = features.double() + F.glu(gates.double(), dim=-1)
    torch.testing.assert_close(result.double(), plain, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("function", [concat_elu, lambda each: gate(each, 2)])
def test_bfloat16_stays_and_is_rounded_once(function: Function) -> None:
    features = draws(3, 4, 8).bfloat16()
    features.view(-1)[:2] = torch.tensor([1e-3, -1e-3])  # exp would round these to 1
    result = function(features)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.double(), function(features.double()), rtol=2**-7, atol=1e-6)


def test_a_block_computes_in_bfloat16_under_autocast() -> None:
    torch.manual_seed(0)
    block = GatedResnet(8, (2, 3), 4, 0, 0.5)
    features, beside = torch.randn(2, 4, 4, 8, requires_grad=True), torch.randn(2, 4, 4, 4)
    seen: list[torch.dtype] = []
    for layer in (block.first.conv, block.second.conv):
        assert isinstance(layer, nn.Conv2d)
        layer.register_forward_hook(lambda layer, inputs, outputs: seen.append(outputs.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        result = block(features, [beside], None)
    assert seen == [torch.bfloat16] * 2
    (gradient,) = torch.autograd.grad(result.float().square().sum(), features)
    assert gradient.dtype == torch.float32
    assert gradient.isfinite().all()


@pytest.mark.parametrize("sees_right", [True, False])
def test_an_upsampling_stays_in_bfloat16_under_autocast(sees_right: bool) -> None:
    torch.manual_seed(0)
    upsampling, features = ShiftedUpsampling(3, 5, sees_right), torch.randn(2, 4, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        result = upsampling(features)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), upsampling(features), rtol=2**-5, atol=2**-5)


def test_a_transformer_stays_in_bfloat16_under_autocast() -> None:
    torch.manual_seed(0)
    transformer = RasterTransformer(8, 2, 1, 4, 4, dropout=0.0)
    features = torch.randn(2, 4, 4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        result = transformer(features.bfloat16())
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), transformer(features), rtol=2**-4, atol=2**-4)


def test_a_block_made_again_has_the_same_dropout_and_gradients() -> None:
    torch.manual_seed(0)
    block, features = GatedResnet(8, (2, 2), 0, 0, 0.5), torch.randn(2, 4, 4, 8, requires_grad=True)
    gradients = []
    for recompute in (False, True):
        stack = Recomputing()
        stack.recompute = recompute
        torch.manual_seed(1)
        loss = stack.run_layer(block, features, [], None).square().sum()
        gradients.append(torch.autograd.grad(loss, [features, *block.parameters()]))
    assert all(torch.equal(first, second) for first, second in zip(*gradients, strict=True))


def test_compiled_formulas_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features = with_edges(2, 3, 4, 12)

    def every() -> list[Tensor]:
        shared = shared_concat_elu(features, (1, 1, 1))
        residual = gated_residual(*features.split((4, 8), dim=-1))
        return [concat_elu(features, (1, 1, 1)), *shared, gate(features, 2), residual, _logsumexp(features)]

    expected = every()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(every(), expected, rtol=1e-13, atol=1e-15)


# Dropout.


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.1, 0.3])
def test_dropout_keeps_the_expected_share_and_value(rate: float) -> None:
    dropout, features = Dropout(rate), torch.ones(1001, 1001)
    torch.manual_seed(0)
    result = dropout(features)
    assert (result == 0).double().mean().item() == pytest.approx(rate, abs=2e-3)
    assert result[result != 0].unique().tolist() == pytest.approx([1 / (1 - rate)])
    # Neighbours are independent: they share random words.
    lost = (result == 0).double()
    assert (lost[:, 1:] * lost[:, :-1]).mean().item() == pytest.approx(rate**2, abs=2e-3)


def test_dropout_draws_the_same_after_the_same_seed_and_something_else_next() -> None:
    dropout, features = Dropout(0.5), torch.ones(64, 64)
    torch.manual_seed(0)
    first, second = dropout(features), dropout(features)
    torch.manual_seed(0)
    assert torch.equal(dropout(features), first)
    assert not torch.equal(first, second)


def test_dropout_is_off_in_evaluation() -> None:
    dropout, features = Dropout(0.5).eval(), torch.randn(8, 8)
    assert torch.equal(dropout(features), features)


def test_dropout_passes_gradients_where_it_keeps() -> None:
    dropout, features = Dropout(0.5), torch.ones(64, requires_grad=True)
    result = dropout(features)
    result.sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad, result)


# The sum over the components of a mixture.


@pytest.mark.parametrize("layout", ["contiguous", "planes", "strided", "expanded"])
def test_logsumexp_is_that_of_torch(layout: str) -> None:
    values = draws(2, 3, 4, 5) * 9
    values.view(-1)[:4] = torch.tensor([1e300, -1e300, -torch.inf, -800.0], dtype=torch.float64)
    assert_same(_logsumexp, lambda each: torch.logsumexp(each, dim=-1), layouts(values)[layout])


def test_logsumexp_has_the_gradient_of_its_values() -> None:
    assert torch.autograd.gradcheck(_logsumexp, draws(3, 2, 4).requires_grad_())


def test_logsumexp_takes_infinities_as_that_of_torch_does() -> None:
    values = torch.full((3, 3), -torch.inf)
    values[1:, 0] = torch.tensor([0.5, torch.inf])
    assert _logsumexp(values.requires_grad_()).tolist() == [-torch.inf, 0.5, torch.inf]


# The mass of a logistic in a bin.


def mixture(means: Tensor, log_scales: Tensor, high: Tensor | None = None) -> DiscretisedMixture:
    """Laws of 256 levels, or of the lower 6 of 8 bits given the higher two."""
    num_levels, high_levels = (256, 1) if high is None else (64, 4)
    return DiscretisedMixture(torch.zeros_like(means), means, log_scales, num_levels, high, high_levels)


@pytest.mark.parametrize("pixels_last", [False, True])
def test_log_mass_has_the_gradients_of_its_values(pixels_last: bool) -> None:
    means, log_scales = draws(4, 2, 3), draws(4, 2, 3, seed=2) - 2
    if pixels_last:
        means, log_scales = (each.movedim(-1, 0).contiguous().movedim(0, -1) for each in (means, log_scales))
    values = torch.tensor([[-1.0, 1.0], [0.3, -0.7], [-0.99, 0.99], [0.0, 0.5]], dtype=torch.float64)
    # Numerical gradients would move the outermost values into the bins beside.
    fixed, inner = values.clone(), values.abs() < 0.995

    def masses(means: Tensor, log_scales: Tensor, values: Tensor) -> Tensor:
        moved = torch.where(inner, values, fixed)
        return mixture(means, log_scales).component_log_mass(moved)

    assert torch.autograd.gradcheck(masses, [each.requires_grad_() for each in (means, log_scales, values)])


def test_log_mass_is_the_plain_formula() -> None:
    means, log_scales, values = draws(6, 5), draws(6, 5, seed=2) - 1, draws(6, seed=3).clamp(-0.9, 0.9)
    above, below = ((values[:, None] + side / 255 - means) / log_scales.exp() for side in (1, -1))
    expected = torch.log(torch.sigmoid(above) - torch.sigmoid(below))
    torch.testing.assert_close(mixture(means, log_scales).component_log_mass(values), expected, rtol=1e-9, atol=1e-9)


def test_log_scales_below_the_least_have_no_gradient() -> None:
    log_scales = torch.tensor([[-8.0, -6.0]], dtype=torch.float64, requires_grad=True)
    mixture(torch.zeros(1, 2).double(), log_scales).component_log_mass(torch.zeros(1).double()).sum().backward()
    assert log_scales.grad is not None
    assert (log_scales.grad != 0).tolist() == [[False, True]]


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("log_scale", [-1e4, -7.0, 0.0, 50.0, 1e4])
@pytest.mark.parametrize("mean", [-1e6, 0.0, 1e6])
def test_masses_and_gradients_are_finite_in_float32(mean: float, log_scale: float, level: int) -> None:
    means, log_scales = (torch.full((1, 2), each, requires_grad=True) for each in (mean, log_scale))
    log_prob = mixture(means, log_scales).log_prob(torch.tensor([level]))
    gradients = torch.autograd.grad(log_prob.sum(), (means, log_scales))
    assert all(each.isfinite().all() for each in (log_prob, *gradients))


# The share of a group of bins that one bin has: the outermost bins and groups, and those between.
LOW = torch.tensor([[0, 63], [0, 63], [17, 40], [0, 63]])
HIGH = torch.tensor([[0, 3], [2, 1], [1, 2], [3, 0]])


@pytest.mark.parametrize("pixels_last", [False, True])
@pytest.mark.parametrize("far", [0.0, 30.0, -30.0])
def test_laws_of_low_bits_have_the_gradients_of_their_values(far: float, pixels_last: bool) -> None:
    weights, means, log_scales = draws(4, 2, 3), draws(4, 2, 3, seed=2) + far, draws(4, 2, 3, seed=3) - 2
    if pixels_last:
        each = (weights, means, log_scales)
        weights, means, log_scales = (one.movedim(-1, 0).contiguous().movedim(0, -1) for one in each)

    def log_prob(weights: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
        return DiscretisedMixture(weights, means, log_scales, 64, HIGH, 4).log_prob(LOW)

    assert torch.autograd.gradcheck(log_prob, [each.requires_grad_() for each in (weights, means, log_scales)])


def test_laws_of_low_bits_are_the_plain_formula() -> None:
    means, log_scales = draws(4, 2, 5), draws(4, 2, 5, seed=2)

    def mass(first: Tensor, end: Tensor) -> Tensor:
        edges = [(2 * each.double() - 1) / 255 - 1 for each in (first, end)]
        edges[0][first == 0], edges[1][end == 256] = -torch.inf, torch.inf
        below, above = (torch.sigmoid((edge[..., None] - means) / log_scales.exp()) for edge in edges)
        return (above - below).sum(-1)

    bins = 64 * HIGH + LOW
    expected = torch.log(mass(bins, bins + 1) / mass(64 * HIGH, 64 * HIGH + 64))
    torch.testing.assert_close(mixture(means, log_scales, HIGH).log_prob(LOW), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mean", [-1e4, -30.0, 0.0, 30.0, 1e4])
def test_laws_of_low_bits_lose_no_digits_in_the_tails(mean: float) -> None:
    """In float32 the two masses differ by less than their last digits, or are 0."""
    results = {}
    for dtype in (torch.float32, torch.float64):
        means, log_scales = (torch.full((4, 2, 1), each, dtype=dtype).requires_grad_() for each in (mean, -2.0))
        log_prob = mixture(means, log_scales, HIGH).log_prob(LOW)
        results[dtype] = [log_prob, *torch.autograd.grad(log_prob.sum(), (means, log_scales))]
    for single, double in zip(results[torch.float32], results[torch.float64], strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


def test_several_logistics_share_a_group_in_the_tails() -> None:
    """Their masses are of the order of exp(-70,000), whose logarithms have two decimals left in float32."""
    means, log_scales = torch.full((4, 2, 3), 1e4), torch.full((4, 2, 3), -2.0)
    single = mixture(means, log_scales, HIGH).log_prob(LOW)
    double = mixture(means.double(), log_scales.double(), HIGH).log_prob(LOW)
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("log_scale", [-1e4, -7.0, 0.0, 50.0, 1e4])
@pytest.mark.parametrize("mean", [-1e6, 0.0, 1e6])
def test_laws_of_low_bits_and_their_gradients_are_finite_in_float32(mean: float, log_scale: float) -> None:
    means, log_scales = (torch.full((4, 2, 2), each, requires_grad=True) for each in (mean, log_scale))
    log_prob = mixture(means, log_scales, HIGH).log_prob(LOW)
    gradients = torch.autograd.grad(log_prob.sum(), (means, log_scales))
    assert all(each.isfinite().all() for each in (log_prob, *gradients))


# Attention and upsampling.


def test_a_transformer_is_the_same_whatever_its_products_go_through() -> None:
    torch.manual_seed(0)
    transformer, features = RasterTransformer(16, 2, 1, 4, 4, 0.0), torch.randn(2, 4, 4, 16, requires_grad=True)

    def value_and_gradient() -> tuple[Tensor, Tensor]:
        value: Tensor = transformer(features)
        return value, torch.autograd.grad(value.square().sum(), features)[0]

    with onednn_matmul(torch.device("cpu")):
        before = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
        through_onednn = value_and_gradient()
        assert torch.backends.mkldnn.matmul.fp32_precision == before  # type: ignore[attr-defined]
    torch.testing.assert_close(through_onednn, value_and_gradient(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sees_right", [True, False])
def test_upsampling_is_a_cropped_transposed_convolution(sees_right: bool) -> None:
    torch.manual_seed(0)
    upsampling = ShiftedUpsampling(3, 5, sees_right).double()
    crop = 1 if sees_right else 0

    def plain(each: Tensor) -> Tensor:
        weight, bias = upsampling.conv.weight, upsampling.conv.bias
        doubled = F.conv_transpose2d(each.permute(0, 3, 1, 2), weight, bias, stride=2, output_padding=1)
        return doubled.permute(0, 2, 3, 1)[:, :6, crop : crop + 8]

    features = draws(2, 3, 4, 3).requires_grad_()
    torch.testing.assert_close(upsampling(features), plain(features), rtol=1e-12, atol=1e-12)
    for leaf in (features, upsampling.conv.get_parameter("parametrizations.weight.original1"), upsampling.conv.bias):
        assert leaf is not None
        gradients = [torch.autograd.grad(each(features).square().sum(), leaf)[0] for each in (upsampling, plain)]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("num_prefix", [0, 1, 3])
def test_a_transformer_returns_the_pixels_and_not_the_prefix(num_prefix: int) -> None:
    transformer = RasterTransformer(8, 2, 0, 2, 3, dropout=0.0, is_causal=False)
    features, prefix = torch.randn(2, 2, 3, 8), torch.randn(2, num_prefix, 8)
    positioned = features + transformer.row_positions + transformer.column_positions
    torch.testing.assert_close(transformer(features, prefix=prefix), transformer.norm(positioned))
