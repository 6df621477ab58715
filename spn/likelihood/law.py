"""A law is a probability distribution over the levels of each sub-pixel of a slice."""

from abc import ABC, abstractmethod

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
        logits = self.logits if self.logits.dtype == torch.float64 else self.logits.float()
        return -F.cross_entropy(logits.reshape(-1, logits.shape[-1]), levels.flatten().long(), reduction="none").view(
            levels.shape
        )

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
