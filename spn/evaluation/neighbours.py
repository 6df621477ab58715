"""The nearest images of a split, which show whether a sample is a copy of what a chain was trained on."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from spn.data.in_memory import SliceReader
from spn.data.layout import Split
from spn.image import join_slices

BLOCK_VALUES = 2**22
"""Sub-pixels of the images compared at a time, which are held as float32."""

Images = UInt8[Tensor, "image height width channel"]


@dataclass(frozen=True)
class Neighbours:
    """For each of some images the nearest of a split."""

    images: Images
    distances: Float64[np.ndarray, " image"]
    """Mean absolute difference, in levels."""

    def __getitem__(self, part: slice) -> "Neighbours":
        return Neighbours(self.images[part], self.distances[part])


def nearest(images: Images, data: SliceReader, split: Split, block_values: int = BLOCK_VALUES) -> Neighbours:
    """Find for each image the nearest of all images of a split, by the mean absolute difference of levels.

    Of several equally near ones it is the first. The split is read block by block.
    """
    wanted, num_dims = images.flatten(1).float(), math.prod(images.shape[1:])
    least = np.full(len(images), np.inf)
    place = np.zeros(len(images), dtype=np.int64)
    for block in torch.arange(data.num_images(split)).split(max(1, block_values // num_dims)):
        others = join_slices(data.slices(split, block)).flatten(1).float()
        distances = torch.cdist(wanted, others, p=1).double().numpy() / num_dims
        first = distances.argmin(1)
        closest = distances[np.arange(len(images)), first]
        place = np.where(closest < least, int(block[0]) + first, place)
        least = np.minimum(closest, least)
    return Neighbours(join_slices(data.slices(split, torch.from_numpy(place))), least)
