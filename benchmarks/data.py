"""Random batches out of HDF5, against h5py's own indexing of the same file; and what a stage reads of a file at all."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import interleaved, spread
from benchmarks.reference import CPU, Part, Scale, slice_file
from benchmarks.table import Row, Target, faster
from spn.config import tile
from spn.data.hdf5 import SliceFile
from spn.data.resident import ResidentSlices

GROUP = "Random batches of 128 images out of HDF5"
READ = "Bytes that a stage reads of a file of slices"
BATCH = 128


def rows(scale: Scale, folder: Path) -> list[Row]:
    """Read batches of RGB images as slices under S = 2, in one bit range and in two."""
    num_images, size = (256, 4) if scale.tiny else (20_000, 32)
    whole, split = (slice_file(folder, num_images, size, 2, cuts) for cuts in ((0, 8), (0, 3, 8)))
    return [
        _row(scale, whole, whole, "mapped"),
        _row(scale, split, split, "mapped"),
        _row(scale, split, ResidentSlices(split, CPU), "held in memory"),
        _parts_row(slice_file(folder, num_images, max(size, 8), 8, (0, 3, 8))),
    ]


def _parts_row(file: SliceFile) -> Row:
    """Count the bytes that are read before the first batch of a stage, as the system counts them."""
    parts = {
        "first_high": Part(8, "first", (0, 3)),
        "rest_high": Part(8, "rest", (0, 3)),
        "low": Part(8, "all", (3, 8)),
    }
    plan = tile("chain", parts, image_bits=8)[0]
    first = torch.arange(1)
    ours = _bytes_read(lambda: SliceFile(file.path).of(plan).slices("train", first))
    whole = _bytes_read(lambda: SliceFile(file.path).slices("train", first))
    return Row(
        READ,
        f"first_high of {file.num_images('train'):,} images {'x'.join(map(str, file.shape))}, S=8, high bits 0 to 3",
        "kB",
        spread([ours / 1000]),
        spread([whole / 1000]),
        spread([whole / ours]),
        Target(100, 128),
        note="of the training split; baseline: all slices and bits of it. What is read is compared with its digests; "
        "then the same bytes are mapped, and no others",
    )


def _bytes_read(read: Callable[[], object]) -> int:
    before = _bytes_so_far()
    read()
    return _bytes_so_far() - before


def _bytes_so_far() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def _row(scale: Scale, file: SliceFile, data: SliceFile | ResidentSlices, how: str) -> Row:
    ours, baseline = scale.repetitions(300), scale.repetitions(10)
    draws, num_images = np.random.default_rng(1), file.num_images("train")
    batches = [torch.from_numpy(draws.permutation(num_images)[:BATCH]) for _ in range(ours)]
    with h5py.File(file.path) as opened:
        ranges, ends = list(opened["train"].values()), file.cuts[1:]

        def through_h5py(indices: Tensor) -> np.ndarray:
            # h5py takes increasing indices only; a batch has no order to keep.
            order = indices.sort().values.numpy()
            joined = sum(levels[:, :, order] << (file.bits - end) for levels, end in zip(ranges, ends, strict=True))
            return np.moveaxis(joined, 2, 0)

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
