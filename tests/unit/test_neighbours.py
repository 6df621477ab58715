"""Nearest images of a split, against comparing one by one."""

import numpy as np
import pytest
import torch

from spn.data.in_memory import ImagesInMemory
from spn.evaluation.neighbours import nearest
from spn.report.pictures import evenly_spaced


@pytest.mark.parametrize("block", [1, 7 * 48, 10**6])
def test_the_nearest_image_is_that_of_comparing_one_by_one(block: int) -> None:
    generator = torch.Generator().manual_seed(1)
    train, wanted = (
        torch.randint(0, 256, (count, 4, 4, 3), dtype=torch.uint8, generator=generator) for count in (40, 5)
    )
    train[17], train[33] = wanted[2], wanted[2]  # copies
    train[8, ..., 0] = wanted[4, ..., 0]  # near, but not in all channels
    train[8, ..., 1:] = wanted[4, ..., 1:] ^ 1
    for place, pixel in ((5, 0), (30, 1)):  # equally near, and not the same
        train[place] = wanted[0]
        train[place, pixel, 0, 0] ^= 1
    found = nearest(wanted, ImagesInMemory(train), "train", block)
    differences = np.abs(train.numpy().astype(int)[None] - wanted.numpy().astype(int)[:, None]).mean((2, 3, 4))
    assert found.distances == pytest.approx(differences.min(1), rel=1e-6)
    assert torch.equal(found.images, train[torch.from_numpy(differences.argmin(1))])
    assert found.distances[2] == 0
    assert found.distances[4] == pytest.approx(2 / 3)
    assert np.array_equal(found[1:3].distances, found.distances[1:3])


@pytest.mark.parametrize(("count", "num_images", "chosen"), [(4, 10, [0, 2, 5, 7]), (3, 3, [0, 1, 2]), (9, 2, [0, 1])])
def test_images_are_chosen_at_even_distances(count: int, num_images: int, chosen: list[int]) -> None:
    assert evenly_spaced(count, num_images).tolist() == chosen
