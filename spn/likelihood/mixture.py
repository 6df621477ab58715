"""The discretised mixture of logistics (Salimans et al. 2017, Sec. 2.1), computed exactly.

The levels of a sub-pixel lie on [-1, 1]. The probability of level x is the mass of the mixture in the bin around it,

    P(x) = sum_i pi_i [sigmoid((x + b - mu_i) / s_i) - sigmoid((x - b - mu_i) / s_i)], b being half a bin,

and the two outermost bins take the tails. If the more significant bits are known, the mixture lies on the scale of all
bits so far. These bits select a group of bins, and the probability of a level is the mass of its bin divided by the
mass of the group. (NOTE: PixelCNN++ has no such stages; this conditioning is ours.)
"""

from collections.abc import Callable
from functools import reduce
from math import log
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from spn.likelihood.law import Categorical, Law

LEAST_LOG_SCALE = -7.0
"""Minimum log-scale of a logistic, as in the paper's code."""

GREATEST_LOG_SCALE = 60.0
"""Maximum log-scale: such a logistic is flat in any precision, and its scale is still a number in float32."""


class DiscretisedMixture(Law):
    """Mixtures of `num_mixtures` logistics each, discretised.

    `high` holds each sub-pixel's more significant bits, if known, as one of `high_levels` levels. Laws are computed in
    float32 or better; in float64 the probabilities sum to 1 within 1e-12 for any means and scales.
    """

    def __init__(
        self,
        log_weights: Float[Tensor, "*batch num_mixtures"],
        means: Float[Tensor, "*batch num_mixtures"],
        log_scales: Float[Tensor, "*batch num_mixtures"],
        num_levels: int,
        high: Int[Tensor, "*batch"] | None = None,
        high_levels: int = 1,
    ) -> None:
        self.num_levels, self.high, self.high_levels = num_levels, high, high_levels
        self.log_weights, (self.means, self.log_scales) = log_weights, self._placed(means, log_scales)

    def _placed(self, means: Tensor, log_scales: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and log-scales on [-1, 1], given them in the units of this law."""
        return means, log_scales

    initial_scale: ClassVar[float] = 1.0
    """Standard deviation of a network's outputs for this law after data-dependent initialisation; as in the paper."""

    def relative(self, values: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return values in [-1, 1] in the units of this law's means."""
        return values

    def rebuilt(
        self, log_weights: Tensor, means: Tensor, log_scales: Tensor, high: Tensor | None
    ) -> "DiscretisedMixture":
        """Return a law of the same kind with other parameters, in the units of this law's attributes."""
        return type(self)(log_weights, means, log_scales, self.num_levels, high, self.high_levels)

    @property
    def _last(self) -> int:
        """The last level of the scale on which the mixture lies."""
        return self.num_levels * self.high_levels - 1

    def log_prob(self, levels: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability of `levels`, in nats."""
        lower, upper = self._bin(levels)
        if self.high is None:
            weights = self.log_weights.to(at_least_float32(self.log_weights))
            # Not log_softmax, which would copy a mixture that is laid out component by component.
            return _logsumexp(weights + self._log_mass(lower, upper)) - _logsumexp(weights)
        # Given the group: log sum_i p(i | group) p(bin | i, group).
        first, end = self._group(self.high)
        shares = self._log_share(lower, upper, first, end)
        return _logsumexp(self._weights_of_group() + shares)

    def probs(self) -> Float[Tensor, "*batch num_levels"]:
        """Return the probability of every level, in float64."""
        return self._log_probs().exp()

    def select(self, row: int, column: int, channel: int) -> "DiscretisedMixture":
        """Pick the law of one sub-pixel out of those of a slice [batch, height, width, channel]."""
        return self._mapped(lambda each: each[:, row, column, channel])

    def tempered(self, temperature: float) -> Categorical:
        """Divide the log-probabilities by `temperature` and renormalise."""
        return Categorical(self._log_probs()).tempered(temperature)

    def tilted(self, log_weights: Float[Tensor, "*batch num_levels"]) -> Categorical:
        """Multiply the probabilities by weights, given as logarithms, and renormalise; in float64."""
        return Categorical(self._log_probs() + log_weights)

    def quantile(self, uniform: Float[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """Turn uniforms in [0, 1) into levels by the inverse of the cumulative distribution."""
        if self.high is not None:
            # In the tails, differences of the cumulative distribution would lose all digits.
            return super().quantile(uniform)
        edges = self._edge(torch.arange(1, self.num_levels, device=uniform.device))
        scales = self._inverse_scales().double()
        below = torch.sigmoid((edges - self.means.double()[..., None, :]) * scales[..., None, :])
        cumulative = (below @ self._weights().double().exp()[..., None])[..., 0]
        return (cumulative <= uniform.double()[..., None]).sum(-1)

    def component_log_mass(self, values: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch num_mixtures"]:
        """Return the log-mass of each logistic in the bin of a value in [-1, 1]; differentiable in the value."""
        half = 1 / self._last
        lower, upper = values - half, values + half
        lower = torch.where(values < half - 1, -torch.inf, lower)
        upper = torch.where(values > 1 - half, torch.inf, upper)
        return self._log_mass(lower[..., None], upper[..., None])

    def _log_probs(self) -> Float[Tensor, "*batch num_levels"]:
        exact = self._mapped(lambda each: each.unsqueeze(self.means.ndim - 1), torch.float64)
        levels = torch.arange(self.num_levels, device=self.means.device)
        return exact.log_prob(levels.expand(*self.means.shape[:-1], -1))

    def _mapped(self, change: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None) -> "DiscretisedMixture":
        """Return these laws with `change` applied to the batch dimensions of every tensor."""
        return DiscretisedMixture(
            change(self.log_weights.to(dtype or self.log_weights.dtype)),
            change(self.means.to(dtype or self.means.dtype)),
            change(self.log_scales.to(dtype or self.log_scales.dtype)),
            self.num_levels,
            None if self.high is None else change(self.high),
            self.high_levels,
        )

    def _bin(self, levels: Int[Tensor, "*batch"]) -> tuple[Tensor, Tensor]:
        """Return the edges of the bins of `levels`; neighbours share one edge exactly, so that their masses add up."""
        full = levels if self.high is None else self.high * self.num_levels + levels
        return self._edge(full), self._edge(full + 1)

    def _group(self, high: Int[Tensor, "*batch"]) -> tuple[Tensor, Tensor]:
        """Return the edges of the groups of bins that the known bits select."""
        return self._edge(high * self.num_levels), self._edge((high + 1) * self.num_levels)

    def _edge(self, full: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch 1"]:
        """Return the lower edge of a bin, on the scale of all bits so far; the outermost edges are infinite."""
        edges = (2 * full.double() - 1) / self._last - 1
        edges = edges.masked_fill(full == 0, -torch.inf).masked_fill(full > self._last, torch.inf)
        return edges.to(at_least_float32(self.means))[..., None]

    def _weights(self) -> Tensor:
        """Return the normalised log-weights, log pi_i."""
        return self.log_weights.to(at_least_float32(self.log_weights)).log_softmax(-1)

    def _weights_of_group(self) -> Tensor:
        """Return the log-weights given the known bits: log p(i | group)."""
        if self.high is None:
            return self._weights()
        # Bayes' rule: p(i | group) is proportional to pi_i p(group | i).
        weights = self.log_weights.to(at_least_float32(self.log_weights)) + self._log_mass(*self._group(self.high))
        # Not log_softmax, which would copy; the largest is taken off first, or in the tails digits would be lost.
        weights = weights - weights.detach().amax(-1, keepdim=True)
        return weights - _logsumexp(weights)[..., None]

    def _log_mass(self, lower: Tensor, upper: Tensor) -> Float[Tensor, "*batch num_mixtures"]:
        """Return the log-mass of each logistic between two edges."""
        dtype = at_least_float32(self.means)
        return _LogMass.apply(self.means.to(dtype), self.log_scales.to(dtype), lower.to(dtype), upper.to(dtype))  # type: ignore[no-untyped-call]

    def _log_share(self, lower: Tensor, upper: Tensor, first: Tensor, end: Tensor) -> Tensor:
        """Return log(mass of a bin / mass of its group) without the quotient: in the tails, both masses may round to 0.

        The edges are in order: first <= lower < upper <= end.
        """
        dtype = at_least_float32(self.means)
        edges = (edge.to(dtype) for edge in (lower, upper, first, end))
        return _LogShare.apply(self.means.to(dtype), self.log_scales.to(dtype), *edges)  # type: ignore[no-untyped-call]

    def _inverse_scales(self) -> Tensor:
        return torch.exp(-self.log_scales.to(at_least_float32(self.log_scales)).clamp(min=LEAST_LOG_SCALE))


def _logsumexp(values: Float[Tensor, "*batch num_mixtures"]) -> Float[Tensor, "*batch"]:
    """Return torch's logsumexp over the components; in training on a CPU, in a third of the time."""
    if values.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.logsumexp(values, -1)
    return _LogSumExp.apply(values)  # type: ignore[no-untyped-call]


class _LogSumExp(torch.autograd.Function):
    """Sweeps over the pixels, which are last in memory; torch's reductions take a few components at a time."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        # Clamped, because a difference of infinities would be undefined.
        far = torch.finfo(values.dtype).max
        largest = reduce(torch.maximum, values.unbind(-1)).clamp(-far, far)
        shares = (values - largest[..., None]).exp_()
        total = reduce(torch.add, shares.unbind(-1))
        ctx.save_for_backward(shares, total)
        return total.log().add_(largest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        shares, total = ctx.saved_tensors
        # In the pixels' order in memory, which is not always that of the gradient.
        return shares * torch.div(gradient, total, out=torch.empty_like(total))[..., None]


class _LogMass(torch.autograd.Function):
    """log(sigmoid(b) - sigmoid(a)) without loss of digits; a and b are the edges in units of each scale.

    The gradients are written out, because autograd's take five times as long. The edges [*batch, 1] may be infinite.
    """

    @staticmethod
    def forward(ctx: Any, means: Tensor, log_scales: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        lower, upper = _finite_like(means, lower, upper)
        inverse = log_scales.clamp(LEAST_LOG_SCALE, GREATEST_LOG_SCALE).neg_().exp_()
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), which cancels no digits.
        below, above = (means - lower).mul_(inverse), (means - upper).mul_(inverse)  # -a and -b
        within = (inverse * (lower - upper)).expm1_()
        # log sigmoid(x) = min(x, 0) - log(1 + exp(-|x|)); the logarithms of all factors are one.
        factors = _one_and_exp_of_minus_abs(below, above)
        result = torch.div(within, factors).neg_().log_().add_(below.clamp(max=0)).sub_(above.clamp(min=0))
        ctx.shape = means.shape
        ctx.save_for_backward(log_scales, lower, upper, inverse, below, above, within)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        log_scales, lower, upper, inverse, below, above, within = ctx.saved_tensors
        # Of the logarithm of 1 - exp(a - b) by b.
        of_gap = within.reciprocal().add_(1).neg_()
        of_below, of_above = torch.sigmoid(-below), torch.sigmoid(above)
        of_mean = (of_below - of_above).mul_(inverse).mul_(gradient)
        of_log_scale = (inverse * (lower - upper)).mul_(of_gap)
        of_log_scale.addcmul_(of_above, above).addcmul_(of_below, below, value=-1).mul_(gradient)
        # In place, because comparisons that return booleans are not vectorised.
        of_log_scale.mul_(log_scales.clone().ge_(LEAST_LOG_SCALE))
        of_lower = of_upper = None
        if any(ctx.needs_input_grad[2:]):
            of_lower = -(of_below + of_gap) * inverse * gradient
            of_upper = (of_above + of_gap) * inverse * gradient
        shapes = (ctx.shape, log_scales.shape, lower.shape, upper.shape)
        return tuple(
            None if each is None else each.sum_to_size(shape)
            for each, shape in zip((of_mean, of_log_scale, of_lower, of_upper), shapes, strict=True)
        )


class _LogShare(torch.autograd.Function):
    """log of the mass between `lower` and `upper` divided by that between `first` and `end`, without loss of digits.

    The edges [*batch, 1] are in order, first <= lower < upper <= end, and may be infinite. The gradients, of means and
    log-scales, are written out, as in `_LogMass`.
    """

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, log_scales: Tensor, lower: Tensor, upper: Tensor, first: Tensor, end: Tensor
    ) -> Tensor:
        lower, upper, first, end = _finite_like(means, lower, upper, first, end)
        inverse = log_scales.clamp(LEAST_LOG_SCALE, GREATEST_LOG_SCALE).neg_().exp_()
        # Each mass is a product of three factors (`_LogMass`), and each factor is divided by its counterpart.
        right, rightmost = ((edge - means).mul_(inverse) for edge in (upper, end))
        left, leftmost = ((means - edge).mul_(inverse) for edge in (lower, first))
        gap, widest = (lower - upper) * inverse, (first - end) * inverse
        within, whole = torch.expm1(gap), torch.expm1(widest)
        # log sigmoid(x) = min(x, 0) - log(1 + exp(-|x|)); the logarithms of all factors are one.
        linear = _difference_below_zero(right, (upper - end) * inverse)
        linear.add_(_difference_below_zero(left, (first - lower) * inverse))
        factors = _one_and_exp_of_minus_abs(rightmost, leftmost).div_(whole)
        result = (factors * within).div_(_one_and_exp_of_minus_abs(right, left)).log_().add_(linear)
        ctx.shape = means.shape
        distances = (right, left, rightmost, leftmost)
        ctx.save_for_backward(log_scales, inverse, gap, widest, within, whole, linear, *distances)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        log_scales, inverse, gap, widest, within, whole, linear, *distances = ctx.saved_tensors
        # The derivative of log sigmoid(x) is sigmoid(-x); x itself falls by 1 / s or rises, as the mean rises.
        right, left, rightmost, leftmost = (torch.sigmoid(-each) for each in distances)
        of_mean = (left - right).add_(rightmost).sub_(leftmost).mul_(inverse).mul_(gradient)
        # All distances and gaps x are multiples of 1 / s, so that the derivative of x by log s is -x.
        of_log_scale = (within.reciprocal().add_(1)).mul_(-gap).sub_(linear)
        of_log_scale.add_((whole.reciprocal().add_(1)).mul_(widest))
        for slope, distance, sign in zip((right, left, rightmost, leftmost), distances, (-1, -1, 1, 1), strict=True):
            # Of log(1 + exp(-|x|)) alone: far below 0 the two terms are equal, and their difference is exactly 0.
            of_log_scale.add_(slope.mul_(distance).sub_(distance.clamp(max=0)), alpha=sign)
        of_log_scale.mul_(gradient).mul_(log_scales.clone().ge_(LEAST_LOG_SCALE))
        return of_mean.sum_to_size(ctx.shape), of_log_scale.sum_to_size(log_scales.shape), None, None, None, None


def _difference_below_zero(first: Tensor, difference: Tensor) -> Tensor:
    """Return min(first, 0) - min(second, 0) for first <= second, given first - second, which may have more digits."""
    return torch.maximum(first.clamp(max=0), difference)


def _one_and_exp_of_minus_abs(first: Tensor, second: Tensor) -> Tensor:
    return (1 + _exp_of_minus_abs(first)).mul_(1 + _exp_of_minus_abs(second))


def _exp_of_minus_abs(values: Tensor) -> Tensor:
    return values.abs().neg_().exp_()


def _finite_like(means: Tensor, *edges: Tensor) -> list[Tensor]:
    """Return edges of which none is infinite, so that no product with 0 is undefined.

    Their pixels have the same order in memory as the means', so that both are read in one sweep.
    """
    far = torch.finfo(means.dtype).max * 1e-6
    return [
        torch.empty_like(means[..., :1]).copy_(edge) if edge.shape[:-1] == means.shape[:-1] else edge
        for edge in (edge.clamp(-far, far) for edge in edges)
    ]


def at_least_float32(values: Tensor) -> torch.dtype:
    """Return the dtype in which laws are computed: that of `values`, but at least float32."""
    return torch.promote_types(values.dtype, torch.float32)


class DequantisedMixture(DiscretisedMixture):
    """A mixture that is trained and evaluated by a bound: its density at levels with uniform noise added.

    Samples and probabilities are those of the discretised mixture, whose log-probability is bounded.
    """

    def log_prob(self, levels: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Estimate, with one draw from torch's global generator, a lower bound on the log-probability, in nats.

        By Jensen's inequality E log(density(level + noise) * bin) <= log-probability of the level.
        """
        full = levels if self.high is None else self.high * self.num_levels + levels
        noise = torch.rand_like(full, dtype=self.means.dtype)
        values = (2 * (full + noise) - 1) / self._last - 1
        # The density of a logistic is sigmoid(z) sigmoid(-z) / s with z = (x - mu) / s; a bin is 2 / last wide.
        scaled = (values[..., None] - self.means) * self._inverse_scales()
        density = F.logsigmoid(scaled) + F.logsigmoid(-scaled) + torch.log(self._inverse_scales() * 2 / self._last)
        group = 0.0 if self.high is None else self._log_mass(*self._group(self.high))
        return _logsumexp(self._weights_of_group() - group + density)


SPREAD = 0.7
"""The initial means of a placed mixture are equally spaced between minus and plus this, in halves of the group."""
NARROW = -2.0
"""Initial log-scale of a placed mixture if no bits are known, on [-1, 1]."""


class PlacedMixture(DiscretisedMixture):
    """The same law in other units: a network whose outputs are 0 spreads the mixture over the possible levels.

    The possible levels are the group that the known bits select, or all levels. Means are measured from the middle of
    the group, in halves of it; log-scales are relative to such a half. (NOTE: ours. In the paper's units outputs of 0
    put all components at 0 with a scale of 1: flat within a group of 32 of 256 levels, with hardly a gradient.)
    """

    initial_scale: ClassVar[float] = 0.1

    def _placed(self, means: Tensor, log_scales: Tensor) -> tuple[Tensor, Tensor]:
        dtype = at_least_float32(means)
        middle, half = _group_place(self.high, self.high_levels, dtype)
        spread = torch.linspace(-SPREAD, SPREAD, means.shape[-1], dtype=dtype, device=means.device)
        start = NARROW if self.high is None else log(half)
        return (means.to(dtype) + spread) * half + middle, log_scales.to(dtype) + start

    def relative(self, values: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return values in [-1, 1] in halves of the group, from its middle."""
        middle, half = _group_place(self.high, self.high_levels, values.dtype)
        return (values - (middle if self.high is None else middle[..., 0])) / half

    def rebuilt(
        self, log_weights: Tensor, means: Tensor, log_scales: Tensor, high: Tensor | None
    ) -> DiscretisedMixture:
        """Return a law with other parameters, which are placed already."""
        return DiscretisedMixture(log_weights, means, log_scales, self.num_levels, high, self.high_levels)


def _group_place(high: Tensor | None, high_levels: int, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Return the middle of each group on [-1, 1], and half the width of one; of all levels where no bits are known."""
    if high is None:
        return torch.zeros((), dtype=dtype), 1.0
    half = 1 / high_levels
    return ((high.to(dtype) + 0.5) * (2 * half) - 1)[..., None], half
