"""Exact likelihood of one stage over the whole test split."""

from pathlib import Path

from spn.config import Params
from spn.distributed import is_first, joined
from spn.evaluation.evaluate import Metrics, save_nats, stage_draws, stage_metrics
from spn.files import write_json
from spn.notes import FILES, RECIPE, TRAINED, weights_digest
from spn.paths import METRICS, NATS
from spn.pipeline.names import check_stage
from spn.pipeline.opening import open_slices
from spn.pipeline.place import choose_device, log_place
from spn.provenance import evaluation_recipe, load_verb, recipe_digest
from spn.trained import load_trained


def evaluate(
    params: Params, stage: str, data: Path, checkpoint: Path, output: Path, *, device: str = "auto", threads: int = 1
) -> Metrics | None:
    """Compute a stage's nats over the whole test split: exact, or the bound that its law gives.

    Writes metrics.json and nats.npy to `output` and returns the metrics; returns None in all processes but the first.
    Raises InputError if the data or the checkpoint do not match `params`.
    """
    check_stage(params, stage)
    place = choose_device(device, threads)
    section = params.stages[stage]
    load_verb("evaluate", section)
    params, slices = open_slices(params, stage, data)
    recipe = evaluation_recipe(params, stage, slices.digest)
    weights = slices.notes.get(TRAINED, {}) | {stage: weights_digest(checkpoint)}
    trained, model = load_trained(params, stage, slices.digest, checkpoint, place)
    with joined(recipe_digest(recipe)):
        log_place(stage, place)
        draws = stage_draws(trained, model, slices, "test", place)
        if not is_first():
            return None
    metrics = stage_metrics(params, trained, model, draws) | {
        "recipe_digest": recipe["training"],
        RECIPE: recipe,
        TRAINED: weights,
        FILES: {NATS: save_nats(output / NATS, draws.mean(0))},
    }
    write_json(output / METRICS, metrics)
    return metrics
