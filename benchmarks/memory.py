"""Memory kept for backward: one slice of an image against the full image."""

from benchmarks.kept import Kept, kept_for_backward
from benchmarks.measure import spread
from benchmarks.problems import common_image, one_slice
from benchmarks.reference import Scale
from benchmarks.table import Row, Target
from spn.config import SpnSection

GROUP = "Memory kept for backward, MB an image"
MEGABYTE = 1e6


def rows(scale: Scale) -> list[Row]:
    """Compare the memory kept for a 64x64 image and for one of its slices, per image of the batch."""
    section, size = scale.section, scale.size(64)
    full, common = kept_of_slice(section, size, 1), _kept_in_common(section, size)
    found = [_row(f"full {size}x{size} image, against the common style", full, common, None)]
    again = kept_for_backward(one_slice(section, size, 1, recompute=True), _batch(size))
    found.append(_row(f"full {size}x{size} image, recomputing layers against keeping them", again, full, None))
    for scale_factor in (4, 8) if not scale.tiny else (2, 4):
        side = size // scale_factor
        target = Target(0.9 * scale_factor**2, float(scale_factor**2))
        alone = kept_of_slice(section, side, 1)
        beside = kept_of_slice(section, size, scale_factor)
        twin = _kept_in_common(section, side)
        what = f"slice {side}x{side} (S={scale_factor}) against the full image"
        found += [
            _row(f"{what}: decoder", alone, full, target),
            # No target: the full image, S = 1, has no embedder to compare it with.
            _row(f"{what}: decoder and slice embedder", beside, full, None),
            _row(f"{what}: decoder, both in the common style", twin, common, None),
        ]
    return found


def kept_of_slice(section: SpnSection, image_size: int, scale_factor: int) -> Kept:
    """Count the memory kept for a slice, or with S = 1 for the full image."""
    return kept_for_backward(one_slice(section, image_size, scale_factor), _batch(image_size // scale_factor))


def _kept_in_common(section: SpnSection, size: int) -> Kept:
    return kept_for_backward(common_image(section, size), _batch(size))


def _batch(side: int) -> int:
    """Choose a batch size with enough pixels for several chunks of the chunked loss."""
    return max(1, 4096 // side**2)


def _row(name: str, ours: Kept, baseline: Kept, target: Target | None) -> Row:
    return Row(
        GROUP,
        name,
        "MB",
        spread([ours.per_image / MEGABYTE]),
        spread([baseline.per_image / MEGABYTE]),
        spread([baseline.per_image / ours.per_image]),
        target,
        f"beside it, once per batch: {ours.constant / MEGABYTE:.2f} MB against {baseline.constant / MEGABYTE:.2f} MB",
    )
