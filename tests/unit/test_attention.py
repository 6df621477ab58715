"""Attention: the fused kernel is the plain formula, causal or not, for keys and values of any widths."""

import pytest
import torch
from torch import Tensor

from spn.layers.attention import attention


def plainly(queries: Tensor, keys: Tensor, values: Tensor, *, is_causal: bool) -> Tensor:
    scores = queries @ keys.mT / queries.shape[-1] ** 0.5
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later & is_causal, -torch.inf).softmax(-1) @ values


@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize(("num_queries", "is_causal"), [(7, True), (7, False), (4, False), (9, False)])
@pytest.mark.parametrize(("key_width", "value_width"), [(4, 4), (3, 5), (6, 2)])
def test_values_and_gradients_are_those_of_the_plain_formula(
    key_width: int,
    value_width: int,
    num_queries: int,
    is_causal: bool,
    compiles: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiles)
    torch.manual_seed(1)
    shapes = [(2, 3, num_queries, key_width), (2, 3, 7, key_width), (2, 3, 7, value_width)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    mixed, expected = attention(*inputs, is_causal=is_causal), plainly(*inputs, is_causal=is_causal)
    torch.testing.assert_close(mixed, expected)
    weights = torch.randn_like(expected)
    found = torch.autograd.grad((mixed * weights).sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad((expected * weights).sum(), inputs))


def test_compiled_attention_runs_as_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes keys and values of one width alone; of others torch would compute the plain formula."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    inputs = [torch.randn(2, 3, 7, width, requires_grad=True) for width in (3, 3, 5)]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        mixed = attention(*inputs, is_causal=True)
    assert mixed.shape == (2, 3, 7, 5)


def test_bfloat16_is_attended_in_float32_and_returned_as_it_came() -> None:
    torch.manual_seed(2)
    inputs = [torch.randn(1, 1, 5, width).bfloat16() for width in (3, 3, 4)]
    mixed = attention(*inputs, is_causal=True)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed, plainly(*(each.float() for each in inputs), is_causal=True).bfloat16())
