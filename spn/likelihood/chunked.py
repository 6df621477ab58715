"""A law computed chunk by chunk, so that the logits of a whole slice never exist at once."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spn.likelihood.law import Law

Head = Callable[..., Law]
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

    def __init__(
        self,
        features: Float[Tensor, "*pixels feature"],
        head: Head,
        recompute: bool = False,
        beside: tuple[Shaped[Tensor, "*pixels channel num_levels"], ...] = (),
    ) -> None:
        """`beside` holds what else `head` is given, pixel by pixel, after the features."""
        self.features, self.head, self.recompute, self.beside = features, head, recompute, beside

    def log_prob(self, levels: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability of `levels`, in nats."""
        return self.by_chunk(lambda law, levels: law.log_prob(levels), levels)

    def expected_log_prob(self, weights: Float[Tensor, "*batch num_levels"]) -> Float[Tensor, "*batch"]:
        """Return the sum of weight * log-probability over the levels, in nats; a weight of 0 contributes 0."""
        return self.by_chunk(lambda law, weights: law.expected_log_prob(weights), weights)

    def probs(self) -> Float[Tensor, "*batch num_levels"]:
        """Return the probability of every level."""
        return self.by_chunk(lambda law: law.probs())

    def select(self, row: int, column: int, channel: int) -> Law:
        """Compute only the law of one sub-pixel of a slice [batch, height, width, channel]."""
        pixel = (each[:, row : row + 1, column : column + 1] for each in (self.features, *self.beside))
        return self.head(*pixel).select(0, 0, channel)

    def tempered(self, temperature: float) -> "Chunked":
        """Divide the log-probabilities by `temperature` and renormalise."""
        return Chunked(
            self.features, lambda *pixels: self.head(*pixels).tempered(temperature), self.recompute, self.beside
        )

    def tilted(self, log_weights: Float[Tensor, "*batch num_levels"]) -> "Chunked":
        """Multiply the probabilities by weights, given as logarithms, and renormalise."""

        def head(*pixels: Tensor) -> Law:
            *inputs, log_weights = pixels
            return self.head(*inputs).tilted(log_weights)

        return Chunked(self.features, head, self.recompute, (*self.beside, log_weights))

    def by_chunk(self, ask: Callable[..., Tensor], *asked: Tensor) -> Tensor:
        """Ask the laws of each chunk [pixels, channel], with its part of `asked`, and join the answers."""

        def answer(features: Tensor, *rest: Tensor) -> Tensor:
            beside, asked = rest[: len(self.beside)], rest[len(self.beside) :]
            return ask(self.head(features, *beside), *asked)

        chunks = zip(*map(self._split, (self.features, *self.beside, *asked)), strict=True)
        if self.recompute and torch.is_grad_enabled():
            parts = [checkpoint(answer, *chunk, use_reentrant=False) for chunk in chunks]
        else:
            parts = [answer(*chunk) for chunk in chunks]
        return torch.cat(parts).unflatten(0, self.features.shape[:-1])

    def _split(self, pixels: Shaped[Tensor, "*pixels_and_more"]) -> tuple[Tensor, ...]:
        flat = pixels.flatten(0, self.features.ndim - 2)
        return flat.split(PIXELS.get(pixels.device.type, PIXELS_OF_ACCELERATORS))
