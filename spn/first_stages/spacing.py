"""Noise levels that are evenly spaced in what is seen of them (ImageBART, Section 3.2): equal steps of distortion.

In multinomial diffusion a code is kept with probability alpha_bar_t and else replaced by a uniform one.

NOTE: distortion is the mean absolute difference in levels; there is no network here that measures what is seen.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spn.first_stages.vq import VqAutoencoder
from spn.shapes import Codes

BATCH_SIZE = 64
"""Images decoded at once."""
KEPT = tuple(1 - share / 20 for share in range(21))
"""Shares of codes that are kept, at which distortion is measured."""
MEASURED = 512
"""Maximum number of images on which it is measured."""


def distortion(model: VqAutoencoder, codes: Codes, kept: Sequence[float], generator: torch.Generator) -> list[float]:
    """Return how far the images of noised codes are from those of clean codes: the mean absolute difference in levels.

    There is one number for each probability in `kept`. All of them share the same noise, so that codes replaced at one
    level are replaced at every noisier one, which makes the curve smooth. The generator is a CPU's.
    """
    chance = torch.rand(codes.shape, generator=generator)
    uniform = torch.randint(model.section.codebook, codes.shape, generator=generator)
    totals, num_levels = [0.0] * len(kept), 0
    for clean, draw, other in zip(*(each.split(BATCH_SIZE) for each in (codes, chance, uniform)), strict=True):
        image = model.decode(clean)
        num_levels += image.numel()
        for index, probability in enumerate(kept):
            noised = torch.where((draw < probability).to(clean.device), clean, other.to(clean))
            totals[index] += _difference(image, model.decode(noised))
    return [total / num_levels for total in totals]


def _difference(image: Tensor, other: Tensor) -> float:
    return (image.double() - other.double()).abs().sum().item()


def equal_steps(kept: Sequence[float], distortions: Sequence[float], num_steps: int) -> list[float]:
    """Return the probabilities of keeping a code after each step, if all steps add the same distortion.

    The curve is given at `kept`, which falls from 1 to 0; the last probability is exactly 0. Where the curve falls, its
    running maximum is taken; the curve is linear in between. Raises ValueError for a curve that does not rise.
    """
    if kept[0] != 1 or kept[-1] != 0 or np.any(np.diff(kept) >= 0):
        raise ValueError(f"expected probabilities that fall from 1 to 0, got {list(kept)}")
    curve = np.maximum.accumulate(distortions)
    if curve[-1] == curve[0]:
        raise ValueError(f"expected a distortion that rises with noise, got {list(distortions)}")
    grid = np.asarray(kept)
    targets = np.linspace(curve[0], curve[-1], num_steps + 1)[1:-1]
    right = np.searchsorted(curve, targets)  # the first point that is at or above the target
    part = (targets - curve[right - 1]) / (curve[right] - curve[right - 1])
    return [*(grid[right - 1] + part * (grid[right] - grid[right - 1])).tolist(), 0.0]
