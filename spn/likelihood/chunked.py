"""Laws that are made when they are asked for, some pixels at a time, so that no slice's logits are ever kept whole."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spn.likelihood.law import Law

Head = Callable[[Tensor], Law]
"""Makes the laws [*pixels, channel] of features [*pixels, feature], each pixel's from its own alone."""

PIXELS = {"cpu": 512}
"""Pixels at a time. On a CPU fewer cost time in calls, more in cache misses."""

PIXELS_OF_ACCELERATORS = 1 << 14
"""Enough to fill one; the log-softmax of 3 channels of 256 levels then takes 50 MB."""


class Chunked(Law):
    """What `head` makes of `features`, chunk by chunk.

    Where gradients are recorded the chunks are made again on the way back: a log-softmax over 256 levels keeps six
    times what the features themselves take.
    """

    def __init__(self, features: Float[Tensor, "*pixels feature"], head: Head) -> None:
        self.features, self.head = features, head

    def log_prob(self, levels: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Give the log-probability of `levels`, in nats."""
        of_pixels = self._split(levels.flatten(0, self.features.ndim - 2))
        chunks = list(zip(self._split(self.features.flatten(0, -2)), of_pixels, strict=True))
        if torch.is_grad_enabled() and len(chunks) > 1:
            parts = [checkpoint(self._log_prob, *chunk, use_reentrant=False) for chunk in chunks]
        else:
            parts = [self._log_prob(*chunk) for chunk in chunks]
        return torch.cat(parts).view(levels.shape)

    def probs(self) -> Float[Tensor, "*batch num_levels"]:
        """Give the probability of every level."""
        parts = [self.head(chunk).probs() for chunk in self._split(self.features.flatten(0, -2))]
        return torch.cat(parts).unflatten(0, self.features.shape[:-1])

    def select(self, row: int, column: int, channel: int) -> Law:
        """Pick the law of one sub-pixel out of those of a slice [batch, height, width, channel]; no other is made."""
        pixel = self.features[:, row : row + 1, column : column + 1]
        return self.head(pixel).select(0, 0, channel)

    def tempered(self, temperature: float) -> "Chunked":
        """Divide the log-probabilities by `temperature` and normalise again."""
        return Chunked(self.features, lambda features: self.head(features).tempered(temperature))

    def _log_prob(self, features: Tensor, levels: Tensor) -> Tensor:
        return self.head(features).log_prob(levels)

    def _split(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return pixels.split(PIXELS.get(pixels.device.type, PIXELS_OF_ACCELERATORS))
