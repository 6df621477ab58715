"""Random batches out of HDF5, against h5py's own indexing of the same contiguous file."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import interleaved
from benchmarks.reference import CPU, Scale, slice_file
from benchmarks.table import Row, Target, faster
from spn.data.hdf5 import SliceFile
from spn.data.resident import ResidentSlices
from spn.image import join_bits

GROUP = "Random batches of 128 images out of HDF5"
BATCH = 128


def rows(scale: Scale, folder: Path) -> list[Row]:
    """Read batches of RGB images as slices under S = 2, in one bit range and in two."""
    num_images, size = (256, 4) if scale.tiny else (20_000, 32)
    whole, split = (slice_file(folder, num_images, size, 2, cuts) for cuts in ((0, 8), (0, 3, 8)))
    return [
        _row(scale, whole, whole, "mapped"),
        _row(scale, split, split, "mapped"),
        _row(scale, split, ResidentSlices(split, CPU), "held in memory"),
    ]


def _row(scale: Scale, file: SliceFile, data: SliceFile | ResidentSlices, how: str) -> Row:
    ours, baseline = scale.repetitions(300), scale.repetitions(10)
    draws, num_images = np.random.default_rng(1), file.num_images("train")
    batches = [torch.from_numpy(draws.permutation(num_images)[:BATCH]) for _ in range(ours)]
    with h5py.File(file.path) as opened:
        ranges = list(opened["train"].values())

        def through_h5py(indices: Tensor) -> np.ndarray:
            # h5py takes increasing indices only; a batch has no order to keep.
            return join_bits([levels[indices.sort().values.numpy()] for levels in ranges], file.cuts)

        read = data.slices("train", batches[0].sort().values).numpy()
        assert np.array_equal(read, through_h5py(batches[0])), "expected the images that h5py reads"
        runs = {
            "ours": _repeat(lambda indices: data.slices("train", indices), batches),
            "h5py": _repeat(through_h5py, batches[:baseline]),
        }
        seconds = interleaved(runs, scale.repetitions(7))
    return faster(
        GROUP,
        f"{'x'.join(map(str, file.shape))}, S={file.scale_factor}, bits cut at {list(file.cuts)}, {how}",
        [each / ours for each in seconds["ours"]],
        [each / baseline for each in seconds["h5py"]],
        BATCH,
        "images/s",
        target=Target(15, 35),
        note=f"baseline: h5py fancy indexing of the contiguous datasets; {baseline} batches a repetition, ours {ours}",
    )


def _repeat(read: Callable[[Tensor], object], batches: list[Tensor]) -> Callable[[], None]:
    def run() -> None:
        for indices in batches:
            read(indices)

    return run
