"""A law computed chunk by chunk, so that the logits of a whole slice never exist at once."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spn.likelihood.law import Law

Head = Callable[[Tensor], Law]
"""Maps features [*pixels, feature] to laws [*pixels, channel], pixel by pixel."""

PIXELS = {"cpu": 512}
"""Pixels per chunk. On a CPU, smaller chunks cost time in calls, and larger ones in cache misses."""

PIXELS_OF_ACCELERATORS = 1 << 14
"""Pixels per chunk elsewhere: enough to fill a GPU; the log-softmax of 3 channels of 256 levels then takes 50 MB."""


class Chunked(Law):
    """The laws that `head` makes of `features`, computed chunk by chunk.

    With `recompute` each chunk is computed again in the backward pass. This takes 5% more time, but does not keep the
    log-softmax, which over 256 levels is six times as large as the features: a tenth of all that training keeps, or a
    third if layers are recomputed too.
    """

    def __init__(self, features: Float[Tensor, "*pixels feature"], head: Head, recompute: bool = False) -> None:
        self.features, self.head, self.recompute = features, head, recompute

    def log_prob(self, levels: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability of `levels`, in nats."""
        of_pixels = self._split(levels.flatten(0, self.features.ndim - 2))
        chunks = list(zip(self._split(self.features.flatten(0, -2)), of_pixels, strict=True))
        if self.recompute and torch.is_grad_enabled():
            parts = [checkpoint(self._log_prob, *chunk, use_reentrant=False) for chunk in chunks]
        else:
            parts = [self._log_prob(*chunk) for chunk in chunks]
        return torch.cat(parts).view(levels.shape)

    def probs(self) -> Float[Tensor, "*batch num_levels"]:
        """Return the probability of every level."""
        parts = [self.head(chunk).probs() for chunk in self._split(self.features.flatten(0, -2))]
        return torch.cat(parts).unflatten(0, self.features.shape[:-1])

    def select(self, row: int, column: int, channel: int) -> Law:
        """Compute only the law of one sub-pixel of a slice [batch, height, width, channel]."""
        pixel = self.features[:, row : row + 1, column : column + 1]
        return self.head(pixel).select(0, 0, channel)

    def tempered(self, temperature: float) -> "Chunked":
        """Divide the log-probabilities by `temperature` and renormalise."""
        return Chunked(self.features, lambda features: self.head(features).tempered(temperature), self.recompute)

    def _log_prob(self, features: Tensor, levels: Tensor) -> Tensor:
        return self.head(features).log_prob(levels)

    def _split(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return pixels.split(PIXELS.get(pixels.device.type, PIXELS_OF_ACCELERATORS))
