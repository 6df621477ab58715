"""How many images a split has, as far as that is known before or after preprocessing."""

from collections.abc import Mapping
from pathlib import Path

from spn.config import Params, layout_name, split_counts
from spn.data.hdf5 import SliceFile
from spn.data.layout import SPLITS, Split


def count_images(params: Params, data: Path) -> Mapping[Split, int]:
    """Count the images of validation and test splits, leaving out what is not known.

    A preprocessed file of the data set, below the folder `data`, knows best; the configuration may state a number.
    """
    for plan in params.stage_plans.values():
        path = data / params.data.name / f"{layout_name(plan.scale_factor, plan.cuts)}.h5"
        if path.exists():
            file = SliceFile(path)
            return {split: file.num_images(split) for split in ("validation", "test")}
    counts = split_counts(params.data)
    return {split: counts[split] for split in SPLITS[1:] if split in counts}
