"""The definition of bits/dim."""

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Nats = TypeVar("Nats", float, NDArray[np.float64], Tensor)


def bits_per_dim(nats: Nats, num_dims: int) -> Nats:
    """Convert negative log-likelihood in nats to bits per dimension of the full image.

    By the chain rule the nats of a chain are the sum of its stages' nats, so results store nats and dimensions, and
    only this function divides them. `num_dims` counts every sub-pixel of the full image (H * W * C), even if a stage
    generates only some of them, so that the figures of a chain's stages add up.
    """
    return nats / (num_dims * math.log(2))
