"""From a data source to bit-depth-split HDF5 slice tensors."""

from pathlib import Path

from spn.config import InputError, Params
from spn.data.preprocess import write_slices
from spn.paths import SOURCES
from spn.provenance import layout_of, load_verb, slices_recipe


def preprocess(params: Params, layout: str, output: Path, sources: Path = SOURCES) -> Path:
    """Write the images of the data source as slices of a layout, such as `S2_2+3`, to `output`; return that path.

    Raises InputError if no stage reads the layout, or the source is missing or damaged.
    """
    load_verb("preprocess", params.data)
    plans = {layout_of(params, stage): plan for stage, plan in params.stage_plans.items()}
    if layout not in plans:
        raise InputError(f"--layout: expected a layout that a stage uses ({', '.join(plans)}), got {layout}")
    plan, recipe = plans[layout], slices_recipe(params, layout)
    write_slices(params.data, plan.scale_factor, plan.cuts, sources, output, recipe=recipe)
    return output
