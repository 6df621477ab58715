"""How many images a split has, as far as that is known before or after preprocessing."""

from collections.abc import Mapping
from pathlib import Path

from spn.config import Params, PhotosData, layout_name
from spn.data.hdf5 import SliceFile
from spn.data.layout import Split

OFFICIAL_TEST = {"cifar10": 10_000, "mnist": 10_000}
"""Test images of the sources whose test split is given."""


def count_images(params: Params, data: Path) -> Mapping[Split, int]:
    """Count the images of validation and test splits, leaving out what is not known.

    A preprocessed file of the data set, below the folder `data`, knows best; the configuration may state a number.
    """
    for plan in params.stage_plans.values():
        path = data / params.data.name / f"{layout_name(plan.scale_factor, plan.cuts)}.h5"
        if path.exists():
            file = SliceFile(path)
            return {split: file.num_images(split) for split in ("validation", "test")}
    return _stated(params)


def _stated(params: Params) -> Mapping[Split, int]:
    section = params.data
    if isinstance(section, PhotosData):  # states shares of the photographs, not numbers
        return {}
    counts: dict[Split, int | None] = {
        "validation": section.validation,
        "test": OFFICIAL_TEST.get(section.source, getattr(section, "test", None)),
    }
    limits = {"validation": section.limit.validation, "test": section.limit.test}
    return {
        split: count if (limit := limits[split]) is None else min(count, limit)
        for split, count in counts.items()
        if count is not None
    }
