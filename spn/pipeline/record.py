"""Records chains in MLflow, linked to the runs of their stages."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from spn import tracking
from spn.config import Params
from spn.files import write_json
from spn.notes import RECIPE
from spn.paths import HANDLE, PICTURE, RESULTS, checkpoint_path, samples_path
from spn.pipeline.names import stages_of
from spn.pipeline.reading import (
    check_samples,
    data_digest,
    history_of_stage,
    metrics_of_chain,
    read_stage_metrics,
)
from spn.provenance import load_verb, record_recipe, stage_recipe


def record(params: Params, chain: str, output: Path, experiment: Path = HANDLE, results: Path = RESULTS) -> str:
    """Record a chain as an MLflow run, linked to the runs of its stages; write its id to `output` and return it."""
    load_verb("record")
    names = stages_of(params, chain)
    store = tracking.open_experiment(experiment, params.data.name)
    for stage in names:
        metrics = read_stage_metrics(params, stage, results)
        if not tracking.has_finished_run(store, metrics["recipe_digest"]):
            _record_training(params, store, metrics, results)
        tracking.record_evaluation(store, metrics)
    digest = data_digest(params, names, results)
    check_samples(params, chain, digest, results)
    pictures = {
        f"{place}_{stage}.png": samples_path(chain, stage, results).with_name(PICTURE)
        for place, stage in enumerate(names, start=1)
    }
    run_id = tracking.record_chain(store, chain, metrics_of_chain(params, chain, results), pictures)
    recipe = record_recipe(params, chain, digest, asdict(store))
    write_json(output, {"chain": chain, "run_id": run_id, RECIPE: recipe})
    return run_id


def _record_training(params: Params, store: tracking.Experiment, metrics: dict[str, Any], results: Path) -> None:
    """Record a training that the store lacks, wholly or partly: it was away, or `dvc pull` brought the results."""
    stage, digest = metrics["stage"], metrics[RECIPE]["data_digest"]
    history, recipe = history_of_stage(params, stage, digest, results), stage_recipe(params, stage, digest)
    count, checkpoint = metrics["num_parameters"], checkpoint_path(stage, results)
    with tracking.StageRun(store, stage, recipe, num_parameters=count, checkpoint=checkpoint) as run:
        for row in history:
            run.measured(row)
    if not run.finished:  # StageRun has printed the reason
        raise tracking.TrackingError(f"{store.uri}: stage {stage} is not recorded in full; run the same command again")
