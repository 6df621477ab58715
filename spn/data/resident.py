"""Keeps slices where they are used, if they fit: on the GPU beside the network, or joined in memory."""

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from spn.data.hdf5 import SliceFile
from spn.data.layout import Split
from spn.machine import free_bytes

SHARE = 0.25
"""Maximum fraction of free memory that a split may take."""


class ResidentSlices:
    """The slices of a `SliceFile`, as levels on `device`.

    A split that takes at most `SHARE` of the free memory is held there from its first use, with its bit ranges joined.
    Any other split is read from the file batch by batch; so is a single bit range on the CPU, because the system keeps
    the pages of a mapped file in memory by itself.
    """

    def __init__(self, file: SliceFile, device: torch.device) -> None:
        self.file, self.device = file, device
        self._read_slices = file.read_slices.to(device)
        self._held: dict[Split, Tensor | None] = {}
        self._labels: dict[Split, Tensor] = {}

    def num_images(self, split: Split) -> int:
        """Count the images of a split."""
        return self.file.num_images(split)

    def slices(self, split: Split, indices: Int64[Tensor, " batch"]) -> UInt8[Tensor, "batch S S height width channel"]:
        """Return the slices of some images on the device; `indices` are on the CPU."""
        if split not in self._held:
            self._held[split] = self._hold(split)
        held = self._held[split]
        if held is None:
            levels = send(self.file.levels(split, indices), self.device)
        else:
            levels = held.index_select(0, send(indices, self.device))
        return self.file.spread(levels, self._read_slices)

    def labels(self, split: Split, indices: Int64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
        """Return the labels of some images of a split that has them, on the device; `indices` are on the CPU."""
        if split not in self._labels:
            # Always held on the device: eight bytes per image.
            every = self.file.labels(split, np.arange(self.num_images(split)))
            assert every is not None, "labels of a split that has them"
            self._labels[split] = every.to(self.device)
        return self._labels[split].index_select(0, send(indices, self.device))

    def _hold(self, split: Split) -> Tensor | None:
        is_mapped = self.device.type == "cpu" and len(self.file.ranges_read) == 1
        if is_mapped or self.file.num_bytes(split) > SHARE * free_bytes(self.device):
            return None
        return self.file.levels(split, np.arange(self.num_images(split))).to(self.device)


def send(values: Tensor, device: torch.device) -> Tensor:
    """Copy from the CPU to a device without waiting for the device."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
