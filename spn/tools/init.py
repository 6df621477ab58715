"""Writes the folder of an experiment on a person's own pictures, and says what was chosen and why."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from spn.config import InputError, Params, load_params
from spn.config.section import Name
from spn.data.layout import Split
from spn.data.sources.source import shown
from spn.files import write_text
from spn.machine import total_bytes
from spn.paths import PARAMS
from spn.pipeline.place import choose_device
from spn.planning import StageForecast, forecast, measure_speeds
from spn.planning.table import duration
from spn.tools.budget import Choice, choose, first_choice, scale_factor
from spn.tools.experiment_folder import check_repository, new_folder, write_workflow
from spn.tools.params_text import class_names, num_images, params_text
from spn.tools.survey import Survey, survey

FEW_IMAGES = 1000
"""With fewer training images, networks soon learn them by heart."""


def init(
    name: str, pictures: Path, *, size: int = 32, minutes: float = 30.0, device: str = "auto", threads: int = 1
) -> Iterator[str]:
    """Write the experiment `name` in the working directory, for the pictures of a folder or zip; yield what was chosen.

    Each chain is trained for about `minutes`, by the forecasts of `spn plan`. The folder appears whole or not at all.
    Raises InputError for a mistake in the arguments.
    """
    folder = _check_name(name)
    scale_factor(size)
    if not math.isfinite(minutes) or minutes <= 0:
        raise InputError(f"--minutes: expected a positive number, got {minutes}")
    check_repository()
    place, cores = choose_device(device, threads), len(os.sched_getaffinity(0))
    num_jobs = max(1, cores // threads) if place.type == "cpu" else 1
    found = survey(pictures, size, cores)
    counts = num_images(found)
    if min(counts.values()) < 1:
        raise InputError(f"{pictures}: expected at least 3 usable pictures, one for each split, got {_listed(counts)}")
    yield from _describe(found, size)
    with new_folder(folder) as staging:
        write_workflow(staging, folder, found.place.absolute(), name)
        yield "timing this machine, and choosing sizes ..."
        path = staging / PARAMS
        first = first_choice(size, counts["train"])
        write_text(path, params_text(name, found, size, minutes, first))
        speeds = measure_speeds(place, {"float32"})
        memory = total_bytes(place) // num_jobs
        choice = choose(load_params(path), first, speeds, 60 * minutes, memory, counts["validation"])
        write_text(path, params_text(name, found, size, minutes, choice))
        params = load_params(path)
        stages = forecast(params, speeds, counts, memory)
    yield from _explain(params, found, minutes, choice)
    yield from _costs(params, stages, place, num_jobs)
    yield f"next: cd {name} && snakemake --cores all"


def _check_name(name: str) -> Path:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise InputError(f"NAME: expected letters, digits and _, the first no _, got {name!r}") from error
    if os.path.lexists(name):
        raise InputError(f"{name}: expected a name that is free here, got one that exists")
    return Path(name)


def _listed(counts: Mapping[Split, int] | Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {key}" for key, count in counts.items())


def _describe(found: Survey, size: int) -> Iterator[str]:
    """Say what was found."""
    colour = ", all grey" if found.is_grey else ""
    yield (
        f"{found.place}: {found.num_pictures:,} pictures ({_listed(found.formats)}{colour}), "
        f"smallest side {found.smallest_side} pixels"
    )
    if found.bad:
        yield f"left out: {len(found.bad)} that are damaged or smaller than {size}x{size}: {shown(found.bad)}"


def _explain(params: Params, found: Survey, minutes: float, choice: Choice) -> Iterator[str]:
    """Say what was chosen and why."""
    counts, factor = num_images(found), params.stages["low"].scale_factor
    size, _, channels = params.data.shape
    own = ", by the folders of these names" if len(found.num_images) == 3 else ""
    yield f"images: {size}x{size}, {'grey' if channels == 1 else 'RGB'}; the largest centre square is resized"
    yield f"splits: {_listed(counts)}{own}"
    if counts["train"] < FEW_IMAGES:
        yield (
            f"note: {counts['train']:,} training images are few; the validation curve rises once they are learned by "
            "heart, and figures on so few test images are uncertain"
        )
    if names := class_names(found):
        yield f"classes: the {len(names)} sub-folders; chains are class-conditional"
    elif found.classes:
        yield f"classes: none, because the {len(found.classes)} sub-folders have too few images each"
    yield f"chains: raster, and multidimensional with {factor}x{factor} slices and 3 + 5 bits"
    reason = {
        "time": f"a larger one would get too few steps in {minutes:g} min",
        "memory": "a larger one needs more memory",
    }
    yield (
        f"network: width {choice.network.width}, {choice.network.pixelcnn_layers} layers; "
        f"{reason.get(choice.limited_by or '', 'the largest of four')}"
    )


def _costs(params: Params, stages: Sequence[StageForecast], place: torch.device, num_jobs: int) -> Iterator[str]:
    """Say how long everything takes, and how much memory, by the forecasts of `spn plan`."""
    by_name = {stage.name: stage for stage in stages}
    for stage in stages:
        training = params.stages[stage.name].training
        yield (
            f"  {stage.name}: {training.steps:,} steps of {training.batch_size}, {duration(stage.seconds.train)}, "
            f"{stage.step.peak / 2**20:,.0f} MiB"
        )
    for name, chain in params.chains.items():
        seconds = [by_name[stage].seconds for stage in chain.stages]
        rest = sum((each.evaluate or 0.0) + (each.sample_stage or 0.0) for each in seconds)
        yield (
            f"{name}: about {duration(sum(each.train for each in seconds))} of training, then {duration(rest)} of "
            f"evaluation and sampling, on one {'GPU' if place.type == 'cuda' else 'core'}"
        )
    if num_jobs > 1:
        yield f"up to {num_jobs} jobs run side by side; each may take {total_bytes(place) // num_jobs / 2**30:,.1f} GiB"
