"""The one definition of bits/dim."""

import math


def bits_per_dim(nats: float, num_dims: int) -> float:
    """Convert negative log-likelihood in nats to bits per dimension of the full image.

    By the chain rule the nats of a chain are the sum of its stages' nats, so nats and dimensions are what is stored,
    and the division happens here alone. `num_dims` counts every sub-pixel of the full image (H * W * C), whatever
    share of them a stage generates: only then do the figures of a chain's stages add.
    """
    return nats / (num_dims * math.log(2))
