"""A law is a probability distribution over the levels of each sub-pixel of a slice."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


class Law(ABC):
    """Independent laws of sub-pixels, of any batch shape, over levels 0 .. num_levels - 1."""

    @abstractmethod
    def log_prob(self, levels: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability of `levels`, in nats."""

    @abstractmethod
    def probs(self) -> Float[Tensor, "*batch num_levels"]:
        """Return the probability of every level."""

    @abstractmethod
    def select(self, row: int, column: int, channel: int) -> "Law":
        """Pick the law of one sub-pixel out of those of a slice [batch, height, width, channel]."""

    @abstractmethod
    def tempered(self, temperature: float) -> "Law":
        """Divide the log-probabilities by `temperature` and renormalise."""

    @abstractmethod
    def tilted(self, log_weights: Float[Tensor, "*batch num_levels"]) -> "Law":
        """Multiply the probabilities by weights, given as logarithms, and renormalise."""

    def by_chunk(self, ask: Callable[..., Tensor], *asked: Tensor) -> Tensor:
        """Return what `ask` answers for a law and its part of `asked`, for all sub-pixels; of some laws by chunk."""
        return ask(self, *asked)

    def expected_log_prob(self, weights: Float[Tensor, "*batch num_levels"]) -> Float[Tensor, "*batch"]:
        """Return the sum of weight * log-probability over the levels, in nats; a weight of 0 contributes 0."""
        # Level by level, so that the log-probabilities of all levels are never held at once.
        terms = (
            weight * self.log_prob(torch.full_like(weight, level, dtype=torch.long)).masked_fill(weight == 0, 0)
            for level, weight in enumerate(weights.unbind(-1))
        )
        return reduce(torch.add, terms)

    def truncated(self, count: int) -> "Categorical":
        """Keep the `count` most probable levels, of equals the lowest, and renormalise (top-k sampling)."""
        probs = self.probs()
        others = probs.argsort(dim=-1, descending=True, stable=True)[..., count:]
        return Categorical(probs.scatter(-1, others, 0.0).log())

    def quantile(self, uniform: Float[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """Turn uniforms in [0, 1) into levels by the inverse of the cumulative distribution."""
        # In float64 and scaled by the last sum, so that rounding never selects a level without probability.
        cumulative = self.probs().double().cumsum(-1)
        threshold = uniform.double()[..., None] * cumulative[..., -1:]
        return torch.searchsorted(cumulative, threshold, right=True)[..., 0]


class Categorical(Law):
    """A softmax over the levels."""

    def __init__(self, logits: Float[Tensor, "*batch num_levels"]) -> None:
        self.logits = logits

    def log_prob(self, levels: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability of `levels`, in nats; the softmax is computed in float32 or better."""
        logits = self._exact().reshape(-1, self.logits.shape[-1])
        if torch.compiler.is_compiling():
            # It compares every level with the one asked for, which takes thrice as long in 64 bits.
            every = torch.arange(logits.shape[-1], dtype=torch.int32, device=logits.device)
            is_asked = levels.flatten().int()[:, None] == every
            return (logits.where(is_asked, 0).sum(-1) - logits.logsumexp(-1)).view(levels.shape)
        return -F.cross_entropy(logits, levels.flatten().long(), reduction="none").view(levels.shape)

    def probs(self) -> Float[Tensor, "*batch num_levels"]:
        """Return the probability of every level."""
        return self.logits.double().softmax(-1)

    def select(self, row: int, column: int, channel: int) -> "Categorical":
        """Pick the law of one sub-pixel out of those of a slice [batch, height, width, channel]."""
        return Categorical(self.logits[:, row, column, channel])

    def tempered(self, temperature: float) -> "Categorical":
        """Divide the logits by `temperature`."""
        # In float64 and from the largest down, so that no temperature overflows the most probable level.
        logits = self.logits.double()
        return Categorical((logits - logits.amax(-1, keepdim=True)) / temperature)

    def tilted(self, log_weights: Float[Tensor, "*batch num_levels"]) -> "Categorical":
        """Add the logarithms of the weights to the logits."""
        return Categorical(self._exact() + log_weights)

    def expected_log_prob(self, weights: Float[Tensor, "*batch num_levels"]) -> Float[Tensor, "*batch"]:
        """Return the sum of weight * log-probability over the levels, in nats, from one softmax."""
        return (weights * self._exact().log_softmax(-1).masked_fill(weights == 0, 0)).sum(-1)

    def _exact(self) -> Float[Tensor, "*batch num_levels"]:
        """Return the logits in float32 or better."""
        return self.logits.to(torch.promote_types(self.logits.dtype, torch.float32))
