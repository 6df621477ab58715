"""Images in memory, read like those of a file of slices."""

from typing import Protocol, runtime_checkable

from jaxtyping import Int64, UInt8
from torch import Tensor

from spn.config import StagePlan
from spn.data.layout import Split
from spn.image import split_slices
from spn.shapes import Labels


@runtime_checkable
class SliceReader(Protocol):
    """What evaluation reads: a file of slices, or images in memory."""

    def of(self, plan: StagePlan) -> "SliceReader":
        """Return a reader of the part that a stage uses."""

    def num_images(self, split: Split) -> int:
        """Count the images of a split."""

    def slices(self, split: Split, indices: Int64[Tensor, " batch"]) -> UInt8[Tensor, "batch S S height width channel"]:
        """Read the slices of some images."""

    def labels(self, split: Split, indices: Int64[Tensor, " batch"]) -> Labels | None:
        """Read the labels of some images; None if there are none."""


class ImagesInMemory:
    """Images [N, H, W, C] as levels, in whatever split is asked for; `labels` are their classes or captions, if any."""

    def __init__(self, images: UInt8[Tensor, "image height width channel"], labels: Labels | None = None) -> None:
        self._images, self._labels = images, labels
        self._scale_factor = 1

    def of(self, plan: StagePlan) -> "ImagesInMemory":
        """Return the images, cut into the stage's slices."""
        reader = ImagesInMemory(self._images, self._labels)
        reader._scale_factor = plan.scale_factor
        return reader

    def num_images(self, split: Split) -> int:
        """Count the images."""
        return len(self._images)

    def slices(self, split: Split, indices: Int64[Tensor, " batch"]) -> UInt8[Tensor, "batch S S height width channel"]:
        """Cut some images into slices."""
        return split_slices(self._images[indices], self._scale_factor)

    def labels(self, split: Split, indices: Int64[Tensor, " batch"]) -> Labels | None:
        """Return the labels of some images."""
        return None if self._labels is None else self._labels[indices]
