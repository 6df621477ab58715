"""Laws of a sub-pixel, and the one definition of bits/dim."""

from spn.likelihood.bits_per_dim import bits_per_dim
from spn.likelihood.chunked import Chunked, Head
from spn.likelihood.law import Categorical, Law

__all__ = ["Categorical", "Chunked", "Head", "Law", "bits_per_dim"]
