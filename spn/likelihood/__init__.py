"""Laws (distributions) of a sub-pixel, and the definition of bits/dim."""

from spn.likelihood.bits_per_dim import bits_per_dim
from spn.likelihood.chunked import Chunked, Head
from spn.likelihood.joint_mixture import JointMixture, joint_mixture, num_joint_outputs
from spn.likelihood.law import Categorical, Law
from spn.likelihood.mixture import DequantisedMixture, DiscretisedMixture, PlacedMixture
from spn.likelihood.output_law import OutputLaw

__all__ = [
    "Categorical",
    "Chunked",
    "DequantisedMixture",
    "DiscretisedMixture",
    "Head",
    "JointMixture",
    "Law",
    "OutputLaw",
    "PlacedMixture",
    "bits_per_dim",
    "joint_mixture",
    "num_joint_outputs",
]
