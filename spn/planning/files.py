"""Forecasts the sizes of files: slices, codes and weights; not that of what is small, such as metrics."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

from spn.config import Params
from spn.data.layout import SPLITS, Split
from spn.paths import checkpoint_path, codes_path, slices_path
from spn.planning.forecast import StageForecast


def file_sizes(
    params: Params, stages: Sequence[StageForecast], num_images: Mapping[Split, int]
) -> dict[Path, int | None]:
    """Return the bytes of each file, without notes and labels; None if the number of images is not known."""
    count = sum(num_images.values()) if all(split in num_images for split in SPLITS) else None
    shapes = {slices_path(params.data.name, size): (params.data.shape, cuts) for size, cuts in params.cuts.items()} | {
        codes_path(name): (params.grid_of_codes(name).shape, params.code_cuts(name))
        for name in params.first_stage_plans
    }
    # A byte for every sub-pixel and every range of bits.
    images = {
        path: None if count is None else count * prod(shape) * (len(cuts) - 1) for path, (shape, cuts) in shapes.items()
    }
    return images | {checkpoint_path(stage.name): stage.step.weights for stage in stages}
