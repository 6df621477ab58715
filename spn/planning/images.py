"""Counts the images of a split, before or after preprocessing."""

from collections.abc import Mapping
from pathlib import Path

from spn.config import Params, split_counts
from spn.data.hdf5 import SliceFile
from spn.data.layout import SPLITS, Split
from spn.paths import slices_path


def count_images(params: Params, data: Path) -> Mapping[Split, int]:
    """Count the images of the splits; one of unknown size is left out.

    The number comes from a preprocessed file below the folder `data` if there is one, else from the configuration.
    """
    for scale_factor in params.cuts:
        path = slices_path(params.data.name, scale_factor, data)
        if path.exists():
            file = SliceFile(path)
            return {split: file.num_images(split) for split in SPLITS}
    counts = split_counts(params.data)
    return {split: counts[split] for split in SPLITS if split in counts}
