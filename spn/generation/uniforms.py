"""Uniforms keyed by (seed, image, stage, slice, pixel, channel): a sample depends on nothing else."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor


def keyed_uniforms(
    seed: int, stage: str, position: tuple[int, int], images: Sequence[int], shape: tuple[int, int, int]
) -> Float64[Tensor, "batch height width channel"]:
    """Draw uniforms in [0, 1) for one slice of each of `images`, given by their numbers.

    Philox is a counter-based generator: its key is made of seed and stage, its counter of image and slice; pixels and
    channels follow in order.
    """
    name = hashlib.sha256(f"{seed}/{stage}".encode()).digest()[:16]
    key = np.frombuffer(name, dtype=np.uint64)
    draws = [
        np.random.Generator(np.random.Philox(key=key, counter=[0, *position, image])).random(shape) for image in images
    ]
    return torch.from_numpy(np.stack(draws))
