"""Attention: the fused kernel is the plain formula, causal or not, for keys and values of any widths."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from spn.layers import attention as module
from spn.layers.attention import attend_on_cpu, attend_on_cpu_backward, attention
from spn.planning.work import Tally, imagined


def plainly(queries: Tensor, keys: Tensor, values: Tensor, *, is_causal: bool) -> Tensor:
    scores = queries @ keys.mT / queries.shape[-1] ** 0.5
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later & is_causal, -torch.inf).softmax(-1) @ values


@pytest.mark.parametrize(("num_queries", "is_causal"), [(7, True), (7, False), (4, False), (9, False)])
@pytest.mark.parametrize(("key_width", "value_width"), [(4, 4), (3, 5), (6, 2)])
def test_values_and_gradients_are_those_of_the_plain_formula(
    key_width: int, value_width: int, num_queries: int, is_causal: bool
) -> None:
    torch.manual_seed(1)
    shapes = [(2, 3, num_queries, key_width), (2, 3, 7, key_width), (2, 3, 7, value_width)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    mixed, expected = attention(*inputs, is_causal=is_causal), plainly(*inputs, is_causal=is_causal)
    torch.testing.assert_close(mixed, expected)
    weights = torch.randn_like(expected)
    found = torch.autograd.grad((mixed * weights).sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad((expected * weights).sum(), inputs))


@pytest.mark.parametrize(("num_queries", "is_causal"), [(7, True), (4, False)])
def test_the_operators_keep_what_they_promise_to_compilers(num_queries: int, is_causal: bool) -> None:
    """Shapes and layouts of results without values are those of results, and nothing that is given changes."""
    torch.manual_seed(3)
    queries, keys, values = (torch.randn(2, 3, size, 4) for size in (num_queries, 7, 7))
    torch.library.opcheck(attend_on_cpu, (queries, keys, values, is_causal, 0.5))
    results = attend_on_cpu(queries, keys, values, is_causal, 0.5)
    given = (torch.randn_like(results[0]), queries, keys, values, *results, is_causal, 0.5)
    torch.library.opcheck(attend_on_cpu_backward, given)


def test_small_products_are_multiplied_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever training decided, forward and backward; compiled or not."""
    seen, settings = list[str](), torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    for name in ("_KERNEL", "_KERNEL_BACKWARD"):
        kernel = getattr(module, name)

        def noted(*given: object, kernel: Callable[..., object] = kernel, **rest: object) -> object:
            seen.append(settings.fp32_precision)
            return kernel(*given, **rest)

        monkeypatch.setattr(module, name, noted)
    monkeypatch.setattr(settings, "fp32_precision", "tf32")
    inputs = [torch.randn(1, 2, 5, 4, requires_grad=True) for _ in range(3)]
    attention(*inputs, is_causal=True).sum().backward()
    assert seen == ["ieee", "ieee"]
    assert settings.fp32_precision == "tf32"


def test_bfloat16_is_attended_in_float32_and_returned_as_it_came() -> None:
    torch.manual_seed(2)
    inputs = [torch.randn(1, 1, 5, width).bfloat16() for width in (3, 3, 4)]
    mixed = attention(*inputs, is_causal=True)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed, plainly(*(each.float() for each in inputs), is_causal=True).bfloat16())


@pytest.mark.parametrize(("is_causal", "pairs"), [(True, 28), (False, 49)])
def test_the_plan_counts_the_products_of_pairs_that_are_seen(is_causal: bool, pairs: int) -> None:
    with imagined():
        inputs = [torch.randn(2, 3, 7, 4, requires_grad=True) for _ in range(3)]
        with Tally() as forward:
            mixed = attention(*inputs, is_causal=is_causal)
        with Tally() as backward:
            mixed.sum().backward()
    # Two products of 2 FLOPs a pair and feature, and five backward, of 2 images and 3 heads.
    assert forward.work.flops == 2 * 3 * pairs * 2 * 2 * 4
    assert backward.work.flops == 2 * 3 * pairs * 5 * 2 * 4
