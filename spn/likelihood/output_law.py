"""Turns the outputs of a network at a sub-pixel into its law."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor

from spn.likelihood.law import Law


class OutputLaw(ABC):
    """Turns a network's outputs at each sub-pixel into its law, for networks that see the channels before it."""

    num_outputs: int
    """Number of network outputs for a sub-pixel."""
    is_large: bool = False
    """Whether a slice has so many outputs that its laws should be computed chunk by chunk (`Chunked`)."""

    @abstractmethod
    def __call__(self, outputs: Float[Tensor, "*batch _"], high: Int[Tensor, "*batch"] | None) -> Law:
        """Return the laws [*batch]; `high` holds the sub-pixels' more significant bits, if known."""
