"""Opens the slices, or the codes, that a network reads."""

from pathlib import Path

from spn.config import InputError, Params
from spn.data.hdf5 import SliceFile
from spn.first_stages import equal_steps
from spn.notes import RECIPE
from spn.provenance import check_recipe, codes_recipe, images_recipe


def open_slices(params: Params, name: str, path: Path) -> tuple[Params, SliceFile]:
    """Open the slices, or the codes, that a network reads.

    Returns them with the parameters, completed by what the codes' file measured for spaced schedules. Raises InputError
    if the images or codes have another shape, or are made by another `data` section, first stage or recipe.
    """
    slices = SliceFile(path)
    codes = params.stages[name].codes if name in params.stages else None
    found = (slices.notes.get(RECIPE) or {}).get("first_stage")
    if found != codes:
        expected, got = ("slices of images" if each is None else f"codes of {each}" for each in (codes, found))
        raise InputError(f"{path}: expected {expected} for {name}, got {got}")
    if slices.shape != (shape := params.grid(name).shape):
        got = "x".join(map(str, slices.shape))
        raise InputError(f"{path}: expected images of {'x'.join(map(str, shape))} for {name}, got {got}")
    if codes is None:
        if (made := slices.notes.get(RECIPE)) is not None:
            check_recipe(path, {"data": images_recipe(params)}, {"data": made["data"]})
        return params, slices
    check_recipe(path, codes_recipe(params, codes, slices.digest), slices.notes.get(RECIPE))
    try:
        spaced = {
            stage: (1.0, *equal_steps(slices.notes["kept"], slices.notes["distortion"], plan.noise.num_scales))
            for stage, plan in params.stage_plans.items()
            if params.stages[stage].codes == codes and plan.noise and not plan.noise.is_measured
        }
    except ValueError as error:
        raise InputError(f"{path}: no schedule can be spaced by these codes; geometric ones can: {error}") from error
    return params.measured(spaced), slices
