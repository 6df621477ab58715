"""Elementwise functions with few passes over memory, which on a CPU take as long as the convolutions between them.

Under torch.compile they are the plain formulas, which it fuses by itself.
"""

from math import log
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from spn.shapes import AnyFeatures, Features

Margins = tuple[int, int, int]
"""Columns of zeros to the left and to the right, and rows of zeros above."""


def concat_elu(features: AnyFeatures, margins: Margins = (0, 0, 0), dropout: float = 0.0) -> Float[Tensor, "*_ both"]:
    """Return elu of the features, then elu of their negatives, after dropout and with margins of zeros around them."""
    if torch.compiler.is_compiling():
        left, right, above = margins
        both = F.elu(torch.cat((features, -features), dim=-1))
        both = F.pad(both, (0, 0, left, right, above, 0)) if any(margins) else both
        return both * dropout_factors(both, dropout) if dropout else both
    return _ConcatElu.apply(features, margins, dropout)  # type: ignore[no-untyped-call]


class _ConcatElu(torch.autograd.Function):
    """One exponential for both halves; the backward pass needs only the result, which the next layer keeps anyway."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, margins: Margins, dropout: float) -> Tensor:
        negated = -features
        low = _exp_of_minimum_minus_one(features, negated)
        result = _between(features, margins)
        first, second = _inner(result, margins).chunk(2, dim=-1)
        torch.maximum(features, low, out=first)
        torch.maximum(negated, low, out=second)
        kept = dropout_factors(result, dropout) if dropout else None
        if kept is not None:
            result.mul_(kept)
        ctx.margins, ctx.dropout = margins, dropout
        ctx.save_for_backward(result, kept)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        result, kept = ctx.saved_tensors
        if kept is not None:
            gradient = gradient * kept
        # Where elu is negative, its derivative is itself plus 1; what is kept of it was multiplied by `factor`.
        factor = 1 / (1 - ctx.dropout)
        of_elu = torch.ops.aten.elu_backward(gradient, factor, 1.0, 1 / factor, True, result)
        first, second = _inner(of_elu, ctx.margins).chunk(2, dim=-1)
        return first - second, None, None


def _exp_of_minimum_minus_one(first: Tensor, second: Tensor) -> Tensor:
    """Return exp(minimum) - 1, with the error of a rounded 1 in float32; on some CPUs expm1 takes thrice as long."""
    # torch's exp2 is the fastest, but rounds what fills no whole vectors differently: a number's result would depend on
    # how many there are. So they are filled up.
    exact = torch.promote_types(first.dtype, torch.float32)
    vectors = torch.empty(-(-first.numel() // 64), 64, dtype=exact, device=first.device)
    result = vectors.view(-1)[: first.numel()].view(first.shape)
    torch.minimum(first, second, out=result)
    vectors.mul_(1 / log(2)).exp2_().sub_(1)
    return result.to(first.dtype)


def shared_concat_elu(
    features: Features, margins: Margins
) -> tuple[Float[Tensor, "batch _ _ both"], Float[Tensor, "batch height width both"]]:
    """Return `concat_elu` of the features twice, with margins of zeros and without, for layers of both kinds."""
    if torch.compiler.is_compiling():
        plain = concat_elu(features)
        left, right, above = margins
        return F.pad(plain, (0, 0, left, right, above, 0)), plain
    return _SharedConcatElu.apply(features, margins)  # type: ignore[no-untyped-call]


class _SharedConcatElu(torch.autograd.Function):
    """The gradients of all layers that read the result are added up before they pass through elu, once."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, margins: Margins) -> tuple[Tensor, Tensor]:
        plain = _ConcatElu.forward(ctx, features, (0, 0, 0), 0.0)
        padded = _between(features, margins)
        _inner(padded, margins).copy_(plain)
        ctx.margins = margins
        ctx.set_materialize_grads(False)
        return padded, plain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_padded: Tensor | None, of_plain: Tensor | None) -> tuple[Tensor | None, None]:
        plain, _ = ctx.saved_tensors
        inner = None if of_padded is None else _inner(of_padded, ctx.margins)
        gradient = of_plain if inner is None else inner if of_plain is None else of_plain + inner
        if gradient is None:
            return None, None
        first, second = torch.ops.aten.elu_backward(gradient, 1.0, 1.0, 1.0, True, plain).chunk(2, dim=-1)
        return first - second, None


def _between(features: Tensor, margins: Margins) -> Tensor:
    """Make room for twice as many features between margins of zeros."""
    if not any(margins):
        return features.new_empty(*features.shape[:-1], 2 * features.shape[-1])
    left, right, above = margins
    batch, height, width, num = features.shape
    room = features.new_empty(batch, above + height, left + width + right, 2 * num)
    for margin in (room[:, :above], room[:, above:, :left], room[:, above:, left + width :]):
        margin.zero_()
    return room


def _inner(features: Tensor, margins: Margins) -> Tensor:
    left, right, above = margins
    return features[:, above:, left : features.shape[2] - right] if any(margins) else features


def gate(features: AnyFeatures, num_groups: int) -> AnyFeatures:
    """Return tanh(first half) * sigmoid(second half) of each group of features, so that no channel gates another."""
    groups = features.unflatten(-1, (num_groups, 2, -1))
    if torch.compiler.is_compiling():
        values, openness = groups.unbind(-2)
        return (values.tanh() * openness.sigmoid()).flatten(-2)
    return _Gate.apply(groups).flatten(-2)  # type: ignore[no-untyped-call]


class _Gate(torch.autograd.Function):
    """Of copies without gaps: torch's functions of rows that lie apart take twice as long, in bfloat16 four times."""

    @staticmethod
    def forward(ctx: Any, groups: Tensor) -> Tensor:
        values = _tanh(groups[..., 0, :])
        openness = _without_gaps(groups[..., 1, :], groups.dtype).sigmoid_()
        ctx.save_for_backward(values, openness)
        return values * openness

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        values, openness = ctx.saved_tensors
        of_tanh = gradient * openness
        of_product = of_tanh * values
        # The derivative of tanh is 1 - tanh^2, that of sigmoid is sigmoid (1 - sigmoid).
        of_openness = torch.addcmul(of_product, of_product, openness, value=-1)
        return torch.stack((of_tanh.addcmul_(of_product, values, value=-1), of_openness), dim=-2)


def _tanh(values: Tensor) -> Tensor:
    """Return tanh; on a CPU, where torch's takes up to four times as long, as 2 sigmoid(2 x) - 1, within 1e-7."""
    if values.device.type != "cpu":
        return values.tanh()
    exact = _without_gaps(values, torch.promote_types(values.dtype, torch.float32))
    return exact.mul_(2).sigmoid_().mul_(2).sub_(1).to(values.dtype)


def _without_gaps(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype, copy=True, memory_format=torch.contiguous_format)


def gated_residual(features: AnyFeatures, gates: Float[Tensor, "*_ both"]) -> AnyFeatures:
    """Return features + a * sigmoid(b), where a is the first half of the gates and b the second."""
    if features.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return features + F.glu(gates, dim=-1)
    return _GatedResidual.apply(features, gates)  # type: ignore[no-untyped-call]


class _GatedResidual(torch.autograd.Function):
    """As `_Gate`: in bfloat16 torch's glu takes four times as long for halves of less than 64 features."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, gates: Tensor) -> Tensor:
        values, openness = gates.chunk(2, dim=-1)
        openness = _without_gaps(openness, gates.dtype).sigmoid_()
        ctx.save_for_backward(gates, openness)
        return torch.addcmul(features, values, openness)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gates, openness = ctx.saved_tensors
        values, _ = gates.chunk(2, dim=-1)
        of_openness = torch.ops.aten.sigmoid_backward(gradient * values, openness)
        return gradient, torch.cat((gradient * openness, of_openness), dim=-1).to(gates.dtype)


class Dropout(nn.Module):
    """Dropout, whose draws on a CPU take an eighth of the time of torch's own.

    There the rate is rounded to a multiple of 1/65536.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    @property
    def rate_now(self) -> float:
        """The rate, which is 0 in evaluation."""
        return self.rate if self.training else 0.0

    def forward(self, features: AnyFeatures) -> AnyFeatures:
        """Replace a share of the features by zeros, and scale the others, so that the expected values stay."""
        return features * dropout_factors(features, self.rate_now) if self.rate_now else features


def dropout_factors(features: Tensor, rate: float) -> Tensor:
    """Return factors shaped like the features: zeros at this rate, else the inverse of the share that is kept."""
    if features.device.type != "cpu":
        return F.dropout(torch.ones_like(features), rate)
    # 8 random bits for each factor if the rate is a multiple of 1/256, else 16. The generator draws 64 at a time.
    width = 8 if (rate * 2**8).is_integer() else 16
    draws = torch.randint(-(2**63), 2**63 - 1, (-(-features.numel() * width // 64),))
    bits = draws.view(torch.int8 if width == 8 else torch.int16)[: features.numel()].view(features.shape)
    # In place, because comparisons that return booleans are not vectorised.
    return bits.ge_(round(rate * 2**width) - 2 ** (width - 1)).to(features.dtype).mul_(1 / (1 - rate))
