"""How the outputs of a network at one sub-pixel become its law."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from spn.likelihood.law import Categorical, Law
from spn.likelihood.mixture import DiscretisedMixture


@dataclass(frozen=True)
class LawForm:
    """A softmax, or a discretised mixture of the sub-pixel's own, over `num_levels` levels.

    It is for networks that see the channels before: each channel's law then needs nothing of them.
    """

    kind: Literal["softmax", "mixture"]
    num_levels: int
    high_levels: int
    num_mixtures: int

    @property
    def num_outputs(self) -> int:
        """Outputs a sub-pixel: logits, or weights, means and log-scales."""
        return self.num_levels if self.kind == "softmax" else 3 * self.num_mixtures

    def __call__(self, outputs: Float[Tensor, "*batch _"], high: Int[Tensor, "*batch"] | None) -> Law:
        """Make the laws [*batch]; `high` holds what is known of the sub-pixels' more significant bits."""
        if self.kind == "softmax":
            return Categorical(outputs)
        weights, means, log_scales = outputs.chunk(3, dim=-1)
        return DiscretisedMixture(weights, means, log_scales, self.num_levels, high, self.high_levels)
