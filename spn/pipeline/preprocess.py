"""Turns a data source into an HDF5 file of slices."""

from contextlib import nullcontext
from pathlib import Path

from spn.config import InputError, Params
from spn.data.preprocess import write_slices
from spn.data.sources.spool import keeping
from spn.paths import RUNS, SOURCES
from spn.provenance import load_verb, slices_recipe


def preprocess(
    params: Params,
    scale_factor: int,
    output: Path,
    sources: Path = SOURCES,
    *,
    runs: Path = RUNS,
    threads: int = 1,
) -> Path:
    """Write the images of the data source to `output`, as slices under a scale factor; return that path.

    Pictures are decoded in `threads` processes, and kept under `runs` until `output` is written, so that a killed run
    goes on from them. Raises InputError if no stage has this scale factor, or if the source is missing or damaged.
    """
    load_verb("preprocess", params.data)
    if scale_factor not in params.cuts:
        known = ", ".join(map(str, params.cuts))
        raise InputError(f"--scale-factor: expected that of a stage ({known}), got {scale_factor}")
    recipe = slices_recipe(params, scale_factor)
    cuts = params.cuts[scale_factor]
    with keeping(runs, recipe) if params.data.source == "folder" else nullcontext() as kept:
        write_slices(params.data, scale_factor, cuts, sources, output, recipe=recipe, processes=threads, kept=kept)
    return output
