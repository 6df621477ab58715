"""A mixture of orders: the exact law from several passes of one chain, over views of an image (NOTE: ours).

The law of an image x is the mean over views v of p(v(x)), for p the law of the whole chain. Every view is a bijection
of the images, so the probabilities of all images sum to one under each view, and under their mean. The nats of stages
add up under each view, but not to those of the mixture, which are at most log V worse than the best of V views.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from spn.config import StagePlan
from spn.data.in_memory import SliceReader
from spn.data.layout import Split
from spn.evaluation.evaluate import Metrics, likelihood_metrics
from spn.image import apply_view, join_slices, split_slices
from spn.shapes import Labels


def mix_nats(nats: Float64[np.ndarray, "view image"]) -> Float64[np.ndarray, " image"]:
    """Return -log of the mean over views of exp(-nats), in nats."""
    least = nats.min(0)
    return least - np.log(np.exp(least - nats).mean(0))


def mixture_metrics(summed: Metrics, nats: Mapping[str, Float64[np.ndarray, " image"]]) -> Metrics:
    """Make the metrics of a mixture of orders from the summed metrics of its chain, and its nats under each view.

    The figures of `stages` stay those of the images as they are, and so do not add up to the figure of the chain.
    """
    num_dims, keep = summed["num_dims"], ("bits_per_dim", "standard_error", "nats")
    views = {view: likelihood_metrics(each, num_dims) for view, each in nats.items()}
    mixed = likelihood_metrics(mix_nats(np.stack(list(nats.values()))), num_dims)
    return summed | mixed | {"views": {view: {key: each[key] for key in keep} for view, each in views.items()}}


class ViewedSlices:
    """A view of the images of a file of slices, read whole, because a view moves pixels to other slices."""

    def __init__(self, reader: SliceReader, view: str) -> None:
        self._reader, self._view = reader, view

    def of(self, plan: StagePlan) -> "ViewedSlices":
        """Return all slices and bits."""
        return self

    def num_images(self, split: Split) -> int:
        """Count the images of a split."""
        return self._reader.num_images(split)

    def slices(self, split: Split, indices: Int64[Tensor, " batch"]) -> UInt8[Tensor, "batch S S height width channel"]:
        """Read some images, and cut their views into slices."""
        slices = self._reader.slices(split, indices)
        return split_slices(apply_view(join_slices(slices), self._view), slices.shape[1])

    def labels(self, split: Split, indices: Int64[Tensor, " batch"]) -> Labels | None:
        """Read the labels of some images; None if there are none."""
        return self._reader.labels(split, indices)
