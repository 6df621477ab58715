"""Decides when bits/dim measured here are comparable with published figures.

They are if data set and release, image size, bit depth and test images are the same. Releases differ more than models
do: the newer, anti-aliased ImageNet 32 and 64 are much easier than the original ones.
"""

from dataclasses import dataclass

from spn.config import ArraysData, Cifar10Data, DataSection, FolderData
from spn.report.published import CIFAR10, RELEASES, Benchmark, Published

NEARLY_ALL = 0.99
"""Fraction of CIFAR-10's test images that a comparison needs."""


@dataclass(frozen=True)
class Comparison:
    """Published figures comparable with ours, and the caveats of the comparison."""

    benchmark: str
    rows: tuple[Published, ...]
    caveats: tuple[str, ...]


def comparable(data: DataSection, num_test_images: int) -> Comparison | str:
    """Find the published figures comparable with bits/dim over `num_test_images` images, or say why there are none."""
    benchmark = _benchmark(data)
    if isinstance(benchmark, str):
        return benchmark
    measured, asked = (data.shape, data.bits), (benchmark.shape, benchmark.bits)
    if measured != asked:
        return f"the figures are for {benchmark.title}, this is {'x'.join(map(str, data.shape))} at {data.bits} bits"
    counted = _count_images(data, benchmark, num_test_images)
    if isinstance(counted, str):
        return counted
    if data.limit.train is not None:
        counted += (f"trained here on at most {data.limit.train:,} images",)
    return Comparison(benchmark.title, benchmark.rows, counted)


def official_count(data: DataSection) -> int | None:
    """Return the number of test images of the release that the configuration names; None if we do not know it."""
    benchmark = _benchmark(data)
    return None if isinstance(benchmark, str) else benchmark.num_test_images


def _benchmark(data: DataSection) -> Benchmark | str:
    """Find the benchmark that the configuration names, or say why it is none."""
    if isinstance(data, Cifar10Data):
        return CIFAR10
    if not isinstance(data, ArraysData | FolderData):
        return f"none are known to us for {data.source}"
    if data.release not in RELEASES:
        return f"data.release is '{data.release}', which is none of {', '.join(RELEASES)}"
    benchmark = RELEASES[data.release]
    if data.test is not None:
        return (
            f"the figures are for the test split of {benchmark.title}, these images were drawn from the training split"
        )
    return benchmark


def _count_images(data: DataSection, benchmark: Benchmark, count: int) -> tuple[str, ...] | str:
    """Return the caveats that the number of test images calls for, or the reason why it rules out a comparison."""
    expected = benchmark.num_test_images
    if count == expected:
        return ()
    if data.limit.test == count:
        return f"the figures are for the whole test split of {benchmark.title}, data.limit.test keeps {count:,} images"
    if expected is None:
        return (f"over {count:,} images here; which images, and how they were resized, may differ between sources",)
    share = f"{count:,} of {expected:,} images"
    if isinstance(data, Cifar10Data) and NEARLY_ALL * expected <= count < expected:
        return (f"nearly comparable: {share}",)
    return f"the figures are for {benchmark.title} with {expected:,} test images, this has {count:,}"
