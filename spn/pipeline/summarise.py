"""Computes the likelihood of a chain by adding the nats of its stages."""

from pathlib import Path

from spn.config import Params
from spn.evaluation.evaluate import Metrics, chain_metrics, load_nats
from spn.files import write_json
from spn.notes import FILES, RECIPE, TRAINED, same_weights
from spn.paths import NATS, RESULTS, metrics_path, stage_folder
from spn.pipeline.names import check_orders, stages_of
from spn.pipeline.reading import data_digest, read_stage_metrics
from spn.provenance import load_verb, summary_recipe


def summarise(params: Params, chain: str, output: Path, results: Path = RESULTS) -> Metrics:
    """Add the nats of a chain's stages; write the chain's metrics to `output` and return them.

    Raises InputError for a mixture of orders, whose nats are no sum of its stages'.
    """
    load_verb("summarise")
    stages = stages_of(params, chain)
    check_orders(params, chain, is_mixture=False)
    digest = data_digest(params, stages, results)
    parts = {}
    for stage in stages:
        metrics = read_stage_metrics(params, stage, results)
        parts[stage] = metrics, load_nats(stage_folder(stage, results) / NATS, metrics[FILES][NATS])
    summary = chain_metrics(chain, parts) | {
        RECIPE: summary_recipe(params, chain, digest),
        TRAINED: same_weights({metrics_path(stage, results): metrics for stage, (metrics, _) in parts.items()}),
    }
    write_json(output, summary)
    return summary
