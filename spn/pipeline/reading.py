"""Reads metrics and histories of stages and chains; refuses those made by other parameters or code.

metrics.json has no speeds, because it is versioned and must be the same when made again from the same weights. The
speed of training is in the history in the checkpoint, that of sampling in timing.json beside the samples.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spn.config import InputError, Params
from spn.data.hdf5 import SliceFile
from spn.evaluation.speed import sampling_speed, training_speed
from spn.files import json_digest, read_json
from spn.notes import RECIPE, TRAINED, Notes, check_files, read_notes, same_weights, weights_digest
from spn.paths import (
    TIMING,
    checkpoint_path,
    codes_path,
    completion_path,
    metrics_path,
    model_path,
    rate_path,
    samples_path,
    summary_path,
)
from spn.pipeline.names import stages_of
from spn.provenance import (
    Recipe,
    check_recipe,
    codec_recipe,
    codes_recipe,
    completion_recipe,
    evaluation_recipe,
    export_recipe,
    sampling_recipe,
    summary_recipe,
    training_recipe,
)


def read_stage_metrics(params: Params, stage: str, results: Path) -> dict[str, Any]:
    """Read a stage's metrics.json; raise InputError unless it matches the parameters and the code."""
    path = metrics_path(stage, results)
    metrics = read_json(path)
    digest = metrics.get(RECIPE, {}).get("data_digest", "")
    check_recipe(path, evaluation_recipe(params, stage, digest), metrics.get(RECIPE))
    return metrics


def data_digest(params: Params, stages: tuple[str, ...], results: Path) -> str:
    """Read the digest of the data that stages were evaluated on; raise InputError unless it is the same for all."""
    digests = {stage: read_stage_metrics(params, stage, results)[RECIPE]["data_digest"] for stage in stages}
    expected = digests[stages[0]]
    for stage, digest in digests.items():
        if digest != expected:
            raise InputError(
                f"{metrics_path(stage, results)}: expected figures on the data of digest {expected}, like {stages[0]}, "
                f"got {digest}"
            )
    return expected


def notes_of_training(params: Params, name: str, digest: str, results: Path) -> Notes:
    """Read the notes of a network's checkpoint, with the history of its training and of its trials.

    Raises InputError unless the checkpoint has the right recipe.
    """
    path = checkpoint_path(name, results)
    notes = read_notes(path)
    check_recipe(path, training_recipe(params, name, digest), notes.get(RECIPE))
    return notes


def notes_of_weights(names: Iterable[str], results: Path) -> dict[Path, Notes]:
    """Return what results that were made with the weights of these networks note, by their checkpoints."""
    paths = {name: checkpoint_path(name, results) for name in names}
    return {path: {TRAINED: {name: weights_digest(path)}} for name, path in paths.items()}


def read_reconstruction(params: Params, first_stage: str, digest: str, results: Path) -> dict[str, Any]:
    """Read the figures of a first stage; raise InputError unless they and its picture match parameters and code."""
    _check_notes(codes_path(first_stage, results), codes_recipe(params, first_stage, digest))
    return read_json(metrics_path(first_stage, results))


def read_completion(params: Params, chain: str, digest: str, results: Path) -> dict[str, Any] | None:
    """Read the figures of a chain's completions, None if there are none; raise InputError as for reconstructions."""
    if not params.is_completed(chain):
        return None
    path = completion_path(chain, results)
    _check_notes(path, completion_recipe(params, chain, digest))
    return read_json(path)


def read_rate(params: Params, chain: str, digest: str, results: Path) -> dict[str, Any] | None:
    """Read the size of a chain's coded images, None if it codes none; raise InputError as for reconstructions."""
    if not params.is_coded(chain):
        return None
    path = rate_path(chain, results)
    _check_notes(path, codec_recipe(params, chain, digest))
    return read_json(path)


def _check_notes(path: Path, recipe: Recipe) -> None:
    notes = read_notes(path)
    check_recipe(path, recipe, notes.get(RECIPE))
    check_files(path, notes)


def metrics_of_chain(params: Params, chain: str, results: Path) -> dict[str, Any]:
    """Read a chain's metrics.json; add its speed of training and, if known, of sampling, and the trials taken.

    Raises InputError unless it matches the parameters and the code.
    """
    stages = stages_of(params, chain)
    path, digest = summary_path(chain, results), data_digest(params, stages, results)
    metrics = read_json(path)
    check_recipe(path, summary_recipe(params, chain, digest), metrics.get(RECIPE))
    notes = {stage: notes_of_training(params, stage, digest, results) for stage in stages}
    taken = {stage: each["taken"] for stage, each in notes.items() if "taken" in each}
    histories = [each["history"] for each in notes.values()]
    sizes = [params.stages[stage].trainings[taken.get(stage, 0)].batch_size for stage in stages]
    timings = [_timing(samples_path(chain, stage, results)) for stage in stages]
    speeds = training_speed(zip(histories, sizes, strict=True)) | sampling_speed(timings)
    return metrics | speeds | {"taken": taken}


def _timing(samples: Path) -> dict[str, Any]:
    """Read how long sampling took; nothing if that is not known, or is of samples that were replaced."""
    place = samples.with_name(TIMING)
    if not (place.exists() and samples.exists()):
        return {}
    notes, timing = read_notes(samples), read_json(place)
    made = {key: notes.get(key) for key in (RECIPE, TRAINED)}
    return timing if timing.get("samples") == json_digest(made) else {}


def metrics_of_chains(params: Params, results: Path) -> dict[str, Any]:
    """Read the metrics and speeds of every chain, by name."""
    return {chain: metrics_of_chain(params, chain, results) for chain in params.chains}


def check_model(params: Params, chain: str, digest: str, results: Path) -> None:
    """Raise InputError unless the model file of a chain matches the parameters and the code."""
    _check_notes(model_path(chain, results), export_recipe(params, chain, digest))


def check_samples(params: Params, chain: str, digest: str, results: Path) -> None:
    """Raise InputError unless the samples of a chain and their pictures match the parameters and the code."""
    for stage in stages_of(params, chain):
        _check_notes(samples_path(chain, stage, results), sampling_recipe(params, chain, stage, digest))


def check_weights(params: Params, chains: Iterable[str], results: Path, others: Iterable[Path] = ()) -> dict[str, str]:
    """Return the digests of the weights of all networks of chains.

    Raises InputError unless figures, samples, and `others` were made with the weights that are in `results`.
    """
    paths: dict[Path, None] = dict.fromkeys(others)
    for chain in chains:
        stages = params.chains[chain].stages
        samples = (samples_path(chain, stage, results) for stage in stages)
        figures = (metrics_path(stage, results) for stage in stages)
        paths |= dict.fromkeys((summary_path(chain, results), *figures, *samples))
    names = {name for chain in chains for name in (*params.chains[chain].stages, params.codes(chain)) if name}
    return same_weights({path: read_notes(path) for path in paths} | notes_of_weights(sorted(names), results))


def check_digest(slices: SliceFile, digest: str) -> None:
    """Raise InputError unless a file holds the images of this digest, on which something was evaluated."""
    if slices.digest != digest:
        raise InputError(
            f"{slices.path}: expected images of digest {digest}, of which the figures are, got {slices.digest}"
        )
