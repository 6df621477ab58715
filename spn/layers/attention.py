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
        equal = (_widened(each.to(dtype), widest) for each in (queries, keys, values))
        mixed = _AttendOnCpu.apply(*equal, is_causal, queries.shape[-1] ** -0.5)  # type: ignore[no-untyped-call]
        return mixed[..., : values.shape[-1]].to(queries.dtype)


def _widened(features: Tensor, width: int) -> Tensor:
    missing = width - features.shape[-1]
    return F.pad(features, (0, missing)) if missing else features


class _AttendOnCpu(torch.autograd.Function):
    """torch's fused kernel, with default products: it multiplies small blocks, which take oneDNN four times as long."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, is_causal: bool, scale: float) -> Tensor:
        mixed, log_sums = attend_on_cpu(queries, keys, values, is_causal, scale)
        ctx.is_causal, ctx.scale = is_causal, scale
        ctx.save_for_backward(queries, keys, values, mixed, log_sums)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gradients = attend_on_cpu_backward(gradient, *ctx.saved_tensors, ctx.is_causal, ctx.scale)
        return *gradients, None, None


# Operators of our own, into which torch.compile does not look: it could not change how products are multiplied.
@torch.library.custom_op("spn::attend_on_cpu", mutates_args=())
def attend_on_cpu(
    queries: Tensor, keys: Tensor, values: Tensor, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the values mixed [batch, head, query, width], and the logarithms of the sums of weights."""
    with default_matmul():
        return _KERNEL(queries, keys, values, 0.0, is_causal, scale=scale)


@torch.library.custom_op("spn::attend_on_cpu_backward", mutates_args=())
def attend_on_cpu_backward(
    gradient: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mixed: Tensor,
    log_sums: Tensor,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values."""
    with default_matmul():
        return _KERNEL_BACKWARD(gradient, queries, keys, values, mixed, log_sums, 0.0, is_causal, scale=scale)


_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_KERNEL_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
# Their shapes and layouts are the kernels'.
attend_on_cpu.register_fake(lambda *inputs: _KERNEL(*inputs[:3], 0.0, inputs[3], scale=inputs[4]))
attend_on_cpu_backward.register_fake(lambda *inputs: _KERNEL_BACKWARD(*inputs[:6], 0.0, inputs[6], scale=inputs[7]))
