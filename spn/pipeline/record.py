"""Records chains in MLflow, linked to the runs of their stages."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from spn import tracking
from spn.config import Params
from spn.files import write_json
from spn.notes import RECIPE, Notes
from spn.paths import (
    HANDLE,
    INPAINTED,
    PICTURE,
    RECONSTRUCTIONS,
    RESULTS,
    checkpoint_path,
    inpainting_path,
    samples_path,
    stage_folder,
)
from spn.pipeline.names import stages_of
from spn.pipeline.reading import (
    check_samples,
    data_digest,
    metrics_of_chain,
    notes_of_training,
    read_inpainting,
    read_reconstruction,
    read_stage_metrics,
)
from spn.provenance import load_verb, recipe_digest, record_recipe, trial_recipe


def record(params: Params, chain: str, output: Path, experiment: Path = HANDLE, results: Path = RESULTS) -> str:
    """Record a chain as an MLflow run, linked to the runs of its stages; write its id to `output` and return it."""
    load_verb("record")
    names = stages_of(params, chain)
    store = tracking.open_experiment(experiment, params.data.name)
    digest = data_digest(params, names, results)
    if (codes := params.codes(chain)) is not None:
        figures = read_reconstruction(params, codes, digest, results)
        notes = notes_of_training(params, codes, digest, results)
        _record_training(params, store, codes, figures, notes, results)
        trained = recipe_digest(notes[RECIPE])
        tracking.record_reconstruction(store, codes, trained, figures, stage_folder(codes, results) / RECONSTRUCTIONS)
    for stage in names:
        metrics = read_stage_metrics(params, stage, results)
        notes = notes_of_training(params, stage, digest, results)
        _record_training(params, store, stage, metrics, notes, results)
        taken = params.stages[stage].trial_text(notes["taken"]) if "taken" in notes else None
        tracking.record_evaluation(store, metrics, taken)
    check_samples(params, chain, digest, results)
    pictures = {
        f"{place}_{stage}.png": samples_path(chain, stage, results).with_name(PICTURE)
        for place, stage in enumerate(names, start=1)
    }
    if (inpainting := read_inpainting(params, chain, digest, results)) is not None:
        pictures[INPAINTED] = inpainting_path(chain, results).with_name(INPAINTED)
    metrics = metrics_of_chain(params, chain, results)
    run_id = tracking.record_chain(store, chain, metrics, pictures, inpainting and inpainting["masks"])
    recipe = record_recipe(params, chain, digest, asdict(store))
    write_json(output, {"chain": chain, "run_id": run_id, RECIPE: recipe})
    return run_id


def _record_training(
    params: Params, store: tracking.Experiment, stage: str, metrics: dict[str, Any], notes: Notes, results: Path
) -> None:
    """Record what the store lacks of a training and its trials: it was away, or `dvc pull` brought the results."""
    count, recipe = metrics["num_parameters"], notes[RECIPE]
    run = tracking.StageRun(store, stage, recipe, num_parameters=count, checkpoint=checkpoint_path(stage, results))
    _write(store, stage, run, notes["history"])
    for number, trial in enumerate(notes.get("trials", [])):
        recipe = trial_recipe(params, stage, number, metrics[RECIPE]["data_digest"])
        text = params.stages[stage].trial_text(number)
        trial_run = tracking.StageRun(
            store, stage, recipe, num_parameters=count, trial=tracking.Trial(run.run_id, number, text)
        )
        _write(store, stage, trial_run, trial["history"])


def _write(store: tracking.Experiment, stage: str, run: tracking.StageRun, history: list[dict[str, Any]]) -> None:
    """Write the rows that a run lacks; a finished run lacks none."""
    with run:
        for row in history:
            run.measured(row)
    if not run.finished:  # StageRun has printed the reason
        raise tracking.TrackingError(f"{store.uri}: stage {stage} is not recorded in full; run the same command again")
