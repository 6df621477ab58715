"""Writes a trained chain as one file, for `spn.load`."""

import copy
from pathlib import Path

import torch

from spn import __version__
from spn.api.model_file import Loaded, contents, of_chain
from spn.api.probe import Part
from spn.checkpoint import save_tensors
from spn.config import Params
from spn.data.hdf5 import SliceFile
from spn.data.layout import SPLITS
from spn.evaluation.evaluate import Metrics, chain_metrics, stage_draws, stage_metrics
from spn.files import read_json
from spn.notes import RECIPE, TRAINED, Notes, same_weights
from spn.paths import MODEL, RESULTS, checkpoint_path, summary_path
from spn.pipeline.names import stages_of
from spn.pipeline.opening import open_slices
from spn.pipeline.place import choose_device
from spn.pipeline.reading import check_digest, notes_of_training, notes_of_weights
from spn.provenance import (
    check_recipe,
    export_recipe,
    load_verb,
    read_path,
    recipe_digest,
    stage_recipe,
    summary_recipe,
)
from spn.provenance.code import code_commit
from spn.stages import build_stage
from spn.trained import load_first_stage, load_trained

NO_FIGURES = {RECIPE, TRAINED, "recipe_digest"}


def export(
    params: Params,
    chain: str,
    data: Path,
    output: Path,
    *,
    results: Path = RESULTS,
    device: str = "auto",
    threads: int = 1,
) -> Path:
    """Write the model file of a trained chain: its weights, parameters, figures, and a probe; return its path.

    `data` is a file of slices of any scale factor. With `export.weights` in half precision the chain is evaluated again
    over the whole test split, because its figures are those of the weights in the file. Raises InputError if a result
    does not match `params`.
    """
    names = stages_of(params, chain)
    place = choose_device(device, threads)
    for name in names:
        load_verb("export", params.stages[name])
    slices = SliceFile(data)
    digest = slices.digest
    summary = read_json(summary_path(chain, results))
    check_recipe(summary_path(chain, results), summary_recipe(params, chain, digest), summary.get(RECIPE))
    for name in names:
        noise = params.stage_plans[name].noise
        if noise is not None and not noise.is_measured:
            params, _ = open_slices(params, name, read_path(params, name, results))
    codes = params.codes(chain)
    networks = notes_of_weights([*names, *filter(None, [codes])], results)
    trained = same_weights({summary_path(chain, results): summary} | networks)
    cpu = torch.device("cpu")
    parts = {name: Part(*load_trained(params, name, digest, checkpoint_path(name, results), cpu)) for name in names}
    first = None if codes is None else load_first_stage(params, codes, digest, checkpoint_path(codes, results), cpu)[1]
    notes: Notes = {
        "version": __version__,
        "commit": code_commit(),
        "figures": _figures(summary),
        "data": _data(params, slices),
        "training": {name: _training(params, name, digest, results) for name in names},
        "recipes": {name: recipe_digest(stage_recipe(params, name, digest)) for name in names},
        RECIPE: export_recipe(params, chain, digest),
        TRAINED: trained,
    }
    weights: torch.dtype = getattr(torch, params.export.weights)
    if weights != torch.float32:
        again = _figures(_evaluated(params, chain, parts, weights, place, digest, results))
        full = notes["figures"]["bits_per_dim"]
        notes |= {"figures": again, "half": {"bits_per_dim": again["bits_per_dim"], "full_bits_per_dim": full}}
    tensors, notes = contents(Loaded(of_chain(params, chain), chain, parts, first, notes), weights)
    save_tensors(output / MODEL, tensors, notes)
    return output / MODEL


def _figures(metrics: Metrics) -> Metrics:
    """Leave out what only the pipeline needs."""
    stages = {
        name: {key: value for key, value in each.items() if key not in NO_FIGURES}
        for name, each in metrics["stages"].items()
    }
    return {key: value for key, value in metrics.items() if key not in NO_FIGURES} | {"stages": stages}


def _data(params: Params, slices: SliceFile) -> Notes:
    origin = slices.origin
    remarks = (
        (origin.skipped, "files were left out because they are unreadable or too small"),
        (origin.duplicates, "test images equal a training or validation image"),
    )
    return {
        "name": params.data.name,
        "release": origin.release,
        "licence": params.data.licence,
        "digest": slices.digest,
        "source_digest": origin.source_digest,
        "num_images": {split: slices.num_images(split) for split in SPLITS},
        "notes": " ".join(f"{count:,} {what}." for count, what in remarks if count),
    }


def _training(params: Params, name: str, digest: str, results: Path) -> Notes:
    notes = notes_of_training(params, name, digest, results)
    last, training = notes["history"][-1], params.stages[name].trainings[notes.get("taken", 0)]
    return {"steps": last["step"], "batch_size": training.batch_size, "seconds": last["training_seconds"]}


def _evaluated(
    params: Params,
    chain: str,
    parts: dict[str, Part],
    weights: torch.dtype,
    place: torch.device,
    digest: str,
    results: Path,
) -> Metrics:
    """Evaluate a chain with rounded weights, in float32, over the whole test split."""
    stages = {}
    for name, part in parts.items():
        _, slices = open_slices(params, name, read_path(params, name, results))
        check_digest(slices, digest)
        network = copy.deepcopy(part.network).to(weights).float().to(place)
        stage = build_stage(part.stage.plan, params.grid(name).shape, place)
        draws = stage_draws(stage, network, slices, "test", place)
        stages[name] = stage_metrics(params, stage, network, draws) | {"recipe_digest": ""}, draws.mean(0)
    return chain_metrics(chain, stages)
