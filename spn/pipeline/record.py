"""Records chains in MLflow, linked to the runs of their stages."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spn import tracking
from spn.config import Params
from spn.files import write_bytes, write_json
from spn.notes import RECIPE, TRAINED, Notes
from spn.paths import (
    COMPLETED,
    CURVES,
    HANDLE,
    PARAMS,
    PICTURE,
    RECONSTRUCTIONS,
    RESULTS,
    checkpoint_path,
    completion_path,
    model_path,
    samples_path,
    stage_folder,
)
from spn.pipeline.links import link_lines
from spn.pipeline.names import stages_of
from spn.pipeline.reading import (
    check_model,
    check_samples,
    check_weights,
    data_digest,
    metrics_of_chain,
    notes_of_training,
    read_completion,
    read_rate,
    read_reconstruction,
    read_stage_metrics,
)
from spn.pipeline.shown import finished_samples
from spn.provenance import load_verb, recipe_digest, record_recipe, trial_recipe
from spn.report.curves import plot_curves
from spn.report.pictures import draw_grid
from spn.report.tables import statement


def record(
    params: Params,
    chain: str,
    output: Path,
    experiment: Path = HANDLE,
    results: Path = RESULTS,
    params_file: Path = PARAMS,
) -> list[str]:
    """Record a chain as an MLflow run, linked to the runs of its stages; return lines that say where it is seen.

    Writes the id of the run, and the addresses of the pages, to `output`. The run gets a copy of `params_file`,
    as it is at the start.
    """
    parameters = params_file.read_bytes()  # at once, because somebody may edit the file while this runs
    load_verb("record")
    names = stages_of(params, chain)
    digest = data_digest(params, names, results)
    trained = dict.fromkeys([*filter(None, [params.codes(chain)]), *names])
    notes = {name: notes_of_training(params, name, digest, results) for name in trained}
    check_samples(params, chain, digest, results)
    check_model(params, chain, digest, results)
    metrics = metrics_of_chain(params, chain, results)
    weights = check_weights(params, [chain], results, [model_path(chain, results)])
    others = _other_figures(params, chain, digest, results)
    files = _pictures(params, chain, results)
    store = tracking.open_experiment(experiment, params.data.name)
    for name in notes:
        _record_network(params, store, name, notes[name], digest, results)
    with tempfile.TemporaryDirectory() as folder:
        files |= {name: Path(folder, name) for name in (PARAMS.name, CURVES)}
        files[PARAMS.name].write_bytes(parameters)
        if params.chains[chain].views:
            files[PICTURE] = Path(folder, PICTURE)
            images = finished_samples(params, chain, results)
            write_bytes(files[PICTURE], draw_grid(images, params.data.white_level))
        plot_curves(params, {name: notes[name]["history"] for name in names}, files[CURVES], [chain])
        run_id = tracking.record_chain(
            store,
            chain,
            metrics,
            {name: each[RECIPE] for name, each in notes.items()},
            statement(params, {chain: metrics}),
            files,
            model_path(chain, results),
            others,
            _asked(params, chain),
        )
    pages = {"page": store.run_page(run_id), "experiment_page": store.page, "ui_command": store.ui_command}
    recipe = record_recipe(params, chain, digest, asdict(store))
    write_json(output, {"chain": chain, "run_id": run_id, **pages, RECIPE: recipe, TRAINED: weights})
    return link_lines({chain: pages})


def _other_figures(params: Params, chain: str, digest: str, results: Path) -> dict[str, float]:
    """Return the figures of what was done with a chain's model file, by their names in MLflow."""
    completion, rate = (read(params, chain, digest, results) for read in (read_completion, read_rate))
    drawn = {} if completion is None else completion["given"]
    coded = {} if rate is None else {key: rate[key] for key in ("bits_per_dim", "evaluated_bits_per_dim")}
    figures = {f"{given}.{key}": value["mean"] for given, found in drawn.items() for key, value in found.items()}
    return {f"completion.{key}": value for key, value in figures.items()} | {
        f"codec.{key}": value for key, value in coded.items()
    }


def _asked(params: Params, chain: str) -> dict[str, Any]:
    """Return the sections of params.yaml that ask for something to be done with a chain's model file."""
    sections = {
        "completion": params.completion if params.is_completed(chain) else None,
        "codec": params.codec if params.is_coded(chain) else None,
    }
    return {name: section.model_dump(mode="json") for name, section in sections.items() if section is not None}


def _pictures(params: Params, chain: str, results: Path) -> dict[str, Path]:
    """Name the pictures of a chain alike for all chains; MLflow compares files of the same name, but none in folders.

    `samples.png` are the finished samples (but for a mixture of orders), `samples_1.png` those after the first stage,
    and so on.
    """
    after = [samples_path(chain, stage, results).with_name(PICTURE) for stage in params.chains[chain].stages]
    pictures = {PICTURE: after[-1]} | {f"samples_{place}.png": path for place, path in enumerate(after, start=1)}
    if (codes := params.codes(chain)) is not None:
        pictures[RECONSTRUCTIONS] = stage_folder(codes, results) / RECONSTRUCTIONS
    if params.is_completed(chain):
        pictures[COMPLETED] = completion_path(chain, results).with_name(COMPLETED)
    return pictures


def _record_network(
    params: Params, store: tracking.Experiment, name: str, notes: Notes, digest: str, results: Path
) -> None:
    """Record the training and the figures of a stage or first stage."""
    if name in params.first_stages:
        metrics = read_reconstruction(params, name, digest, results)
        _record_training(params, store, name, metrics, notes, results)
        chains = [chain for chain in params.chains if params.codes(chain) == name]
        picture = stage_folder(name, results) / RECONSTRUCTIONS
        tracking.record_reconstruction(store, name, recipe_digest(notes[RECIPE]), metrics, picture, chains)
        return
    metrics = read_stage_metrics(params, name, results)
    _record_training(params, store, name, metrics, notes, results)
    chains = [chain for chain, section in params.chains.items() if name in section.stages]
    taken = params.stages[name].trial_text(notes["taken"]) if "taken" in notes else None
    tracking.record_evaluation(store, metrics, statement(params, {name: metrics}), chains, taken)


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
