"""Turns a data source into an HDF5 file of slices."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import PIL

from spn.config import InputError, Params
from spn.data.preprocess import write_slices
from spn.data.sources.spool import Kept
from spn.files import json_digest
from spn.lock import locked
from spn.paths import RUNS, SOURCES
from spn.provenance import Recipe, load_verb, slices_recipe


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


@contextmanager
def keeping(runs: Path, recipe: Recipe) -> Iterator[Kept]:
    """Yield where the pictures of one file of slices are kept under `runs`; remove them once it is written.

    Meanwhile no other process may write a file of this recipe: it waits. After an error, the pictures stay if there is
    a note of them.
    """
    data = recipe["data"]
    # All pictures are decoded before unreadable ones are refused, so that whoever then skips them need not wait again.
    decoding = recipe | {"data": {key: value for key, value in data.items() if key != "unreadable"}}
    origin = {"recipe": decoding, "pillow": PIL.__version__}
    name = f"{data['name']}-S{recipe['scale_factor']}-{json_digest(origin)[:16]}"
    kept = Kept(runs / f"{name}.pictures", origin)
    waiting = f"{data['name']}: waiting for another process that preprocesses it now"
    with locked(runs / f".{name}.lock", waiting, "do not preprocess these pictures twice at once"):
        try:
            yield kept
            kept.remove()
        finally:
            if not kept.note.exists():
                kept.remove()
