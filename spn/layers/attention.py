"""Attention over the tokens of a slice, with the fused kernel of each device."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from spn.machine import default_matmul


def attention(
    queries: Float[Tensor, "batch head query key_width"],
    keys: Float[Tensor, "batch head token key_width"],
    values: Float[Tensor, "batch head token value_width"],
    *,
    is_causal: bool,
) -> Float[Tensor, "batch head query value_width"]:
    """Attend from each query to all tokens, or if causal to its own token and those before."""
    if queries.device.type != "cpu":
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=is_causal)
    # On a CPU attention in bfloat16 is slower than in float32, in the backward pass by a factor of two.
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        # The kernel takes one width for all; zeros add nothing to products, and the values' are cut off again.
        widest = max(queries.shape[-1], values.shape[-1])
        wide_queries, wide_keys, wide_values = (_widened(each.to(dtype), widest) for each in (queries, keys, values))
        scale = queries.shape[-1] ** -0.5
        if torch.compiler.is_compiling():  # cannot change how products are multiplied
            mixed = F.scaled_dot_product_attention(
                wide_queries, wide_keys, wide_values, is_causal=is_causal, scale=scale
            )
        else:
            mixed = _AttendOnCpu.apply(wide_queries, wide_keys, wide_values, is_causal, scale)  # type: ignore[no-untyped-call]
        return mixed[..., : values.shape[-1]].to(queries.dtype)


def _widened(features: Tensor, width: int) -> Tensor:
    missing = width - features.shape[-1]
    return F.pad(features, (0, missing)) if missing else features


class _AttendOnCpu(torch.autograd.Function):
    """torch's fused kernel, with default products: it multiplies small blocks, which take oneDNN four times as long."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, is_causal: bool, scale: float) -> Tensor:
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        with default_matmul():
            mixed, log_sums = attend(queries, keys, values, 0.0, is_causal, scale=scale)
        ctx.is_causal, ctx.scale = is_causal, scale
        ctx.save_for_backward(queries, keys, values, mixed, log_sums)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        with default_matmul():
            gradients = attend_backward(gradient, *ctx.saved_tensors, 0.0, ctx.is_causal, scale=ctx.scale)
        return *gradients, None, None
