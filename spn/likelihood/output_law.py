"""How the outputs of a network at one sub-pixel become its law."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor

from spn.likelihood.law import Law


class OutputLaw(ABC):
    """A law of each sub-pixel by itself, for networks that see the channels before it."""

    num_outputs: int
    """Outputs of the network for a sub-pixel."""
    is_large: bool = False
    """Whether a slice's outputs are so many that laws are rather made some pixels at a time (`Chunked`)."""

    @abstractmethod
    def __call__(self, outputs: Float[Tensor, "*batch _"], high: Int[Tensor, "*batch"] | None) -> Law:
        """Make the laws [*batch]; `high` holds what is known of the sub-pixels' more significant bits."""
