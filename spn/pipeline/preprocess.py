"""Turns a data source into an HDF5 file of slices."""

from pathlib import Path

from spn.config import InputError, Params
from spn.data.preprocess import write_slices
from spn.paths import SOURCES
from spn.provenance import load_verb, slices_recipe


def preprocess(params: Params, scale_factor: int, output: Path, sources: Path = SOURCES, *, threads: int = 1) -> Path:
    """Write the images of the data source to `output`, as slices under a scale factor; return that path.

    Pictures are decoded in `threads` processes. Raises InputError if no stage has this scale factor, or if the source
    is missing or damaged.
    """
    load_verb("preprocess", params.data)
    if scale_factor not in params.cuts:
        known = ", ".join(map(str, params.cuts))
        raise InputError(f"--scale-factor: expected that of a stage ({known}), got {scale_factor}")
    recipe = slices_recipe(params, scale_factor)
    cuts = params.cuts[scale_factor]
    write_slices(params.data, scale_factor, cuts, sources, output, recipe=recipe, processes=threads)
    return output
