"""Batches as a pure function of the step, so that a resumed training sees the same ones as an uninterrupted one."""

from functools import lru_cache

import torch
from jaxtyping import Int64
from torch import Tensor

from spn.seeds import seeded


def batch_indices(seed: int, step: int, num_images: int, batch_size: int) -> Int64[Tensor, " batch"]:
    """Choose the images of one step: each epoch is a new permutation, and a batch may span two epochs."""
    first = step * batch_size
    picks: list[Tensor] = []
    missing = batch_size
    while missing:
        epoch, offset = divmod(first, num_images)
        order = _epoch_order(seed, epoch, num_images)
        picks.append(order[offset : offset + missing])
        missing -= len(picks[-1])
        first += len(picks[-1])
    return torch.cat(picks)


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, num_images: int) -> Tensor:
    return torch.randperm(num_images, generator=seeded(seed, "epoch", epoch))


def draw_positions(
    targets: tuple[tuple[int, int], ...], batch_size: int, generator: torch.Generator
) -> Int64[Tensor, "batch 2"]:
    """Draw one target slice per image, uniformly."""
    choice = torch.randint(len(targets), (batch_size,), generator=generator)
    return torch.tensor(targets)[choice]
