"""Computes the likelihood of a mixture of orders: of one chain over several views of every image."""

from pathlib import Path

import numpy as np
from jaxtyping import Float64

from spn.config import Params
from spn.data.hdf5 import SliceFile
from spn.evaluation.evaluate import Metrics, chain_metrics, load_nats, save_nats, stage_nats
from spn.evaluation.views import ViewedSlices, mix_nats, mixture_metrics
from spn.files import write_json
from spn.notes import FILES, RECIPE, TRAINED, same_weights
from spn.paths import METRICS, NATS, RESULTS, checkpoint_path, metrics_path, stage_folder
from spn.pipeline.names import check_orders, stages_of
from spn.pipeline.place import choose_device
from spn.pipeline.reading import check_digest, data_digest, notes_of_weights, read_stage_metrics
from spn.provenance import load_verb, read_path, summary_recipe
from spn.trained import load_trained


def mix_orders(
    params: Params, chain: str, output: Path, *, results: Path = RESULTS, device: str = "auto", threads: int = 1
) -> Metrics:
    """Evaluate a chain over its views of the whole test split, and mix them image by image.

    The images as they are were evaluated stage by stage before. Writes metrics.json and nats.npy to `output`, and
    returns the metrics. Raises InputError for a chain of one order, or if a result does not match `params`.
    """
    stages, views = stages_of(params, chain), params.chains[chain].views
    check_orders(params, chain, is_mixture=True)
    for stage in stages:
        load_verb("mix_orders", params.stages[stage])
    digest = data_digest(params, stages, results)
    parts = {}
    for stage in stages:
        metrics = read_stage_metrics(params, stage, results)
        parts[stage] = metrics, load_nats(stage_folder(stage, results) / NATS, metrics[FILES][NATS])
    figures = {metrics_path(stage, results): metrics for stage, (metrics, _) in parts.items()}
    weights = same_weights(figures | notes_of_weights(stages, results))
    seen = np.sum([nats for _, nats in parts.values()], axis=0)
    nats: dict[str, Float64[np.ndarray, " image"]] = {
        view: seen if view == "identity" else _nats_of(params, chain, view, digest, results, device, threads)
        for view in views
    }
    metrics = mixture_metrics(chain_metrics(chain, parts), nats) | {
        RECIPE: summary_recipe(params, chain, digest),
        TRAINED: weights,
        FILES: {NATS: save_nats(output / NATS, mix_nats(np.stack(list(nats.values()))))},
    }
    write_json(output / METRICS, metrics)
    return metrics


def _nats_of(
    params: Params, chain: str, view: str, digest: str, results: Path, device: str, threads: int
) -> Float64[np.ndarray, " image"]:
    """Evaluate all stages of a chain over one view of the test images."""
    place, found = choose_device(device, threads), []
    for stage in params.chains[chain].stages:
        slices = SliceFile(read_path(params, stage))
        check_digest(slices, digest)
        trained, model = load_trained(params, stage, digest, checkpoint_path(stage, results), place)
        found.append(stage_nats(trained, model, ViewedSlices(slices, view), "test", place))
    return np.sum(found, axis=0)
