"""The run of a chain: bits/dim in total and by stage, parameters, speeds, samples, and links to its stages' runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import RunTag
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from spn.files import json_digest
from spn.provenance import Recipe
from spn.tracking.cards import chain_card
from spn.tracking.experiment import Experiment
from spn.tracking.outage import reaching
from spn.tracking.runs import labels, log_dataset, log_figures, log_files, log_params, numbers, open_run
from spn.tracking.stage_run import stage_run

_UNREADABLE = {"stage", "seed", "data", "data_digest", "code_digest", "codes", "plan", "trials"}
"""Keys of a stage's recipe that are not its own section of params.yaml, or stand elsewhere."""

_CELLS = ("scale_factor", "slices", "bits")
"""Keys of a stage's section that its recipe has in its plan."""


def record_chain(
    experiment: Experiment,
    chain: str,
    metrics: Mapping[str, Any],
    recipes: Mapping[str, Recipe],
    statement: str,
    files: Mapping[str, Path],
    model: Path,
    others: Mapping[str, float],
    asked: Mapping[str, Any],
) -> str:
    """Record a chain's metrics.json and the throughput of its sampling; return the id of the run.

    `recipes` has those of the trainings of its stages, and of its first stage if it has one; `statement` says what its
    figures are; `files` maps names of artefacts to files, and `model` is the chain's model file, which becomes a logged
    model; `others` are figures of what was done with it, and `asked` has the sections of params.yaml that ask for this.
    The run is identified by the chain's name, the recipes of its stages, and these sections, because MLflow's client
    deletes no figure that is no longer asked for: recording it again makes no second run, writes only what differs, and
    replaces the artefacts. Raises InputError if a stage has no run, and TrackingError if the store does not answer or
    refuses an artefact.
    """
    # Imported here, because mlflow.pyfunc takes a second, which trainings need not wait for.
    from spn.tracking.logged_model import log_chain_model

    with reaching(experiment.uri):
        stages = {
            name: str(stage_run(experiment, name, stage["recipe_digest"]).info.run_id)
            for name, stage in metrics["stages"].items()
        }
        run = open_run(experiment, chain, _identity(chain, metrics, asked), "spn record")
        log_params(experiment.client, run, _params(tuple(stages), recipes, metrics.get("taken", {})))
        log_dataset(experiment.client, run, next(iter(recipes.values())), metrics["split"])
        # With its figure, which MLflow takes for the run's too; first, because the UI keeps the order.
        log_chain_model(experiment, run, chain, model)
        # Read again: of a new model, the run has the model's figure now, which differs if weights were rounded.
        run = experiment.client.get_run(run.info.run_id)
        log_figures(experiment.client, run, {**others, **_figures(metrics)})
        tags = _tags(chain, metrics, recipes) | {f"stage_run.{name}": run_id for name, run_id in stages.items()}
        links = {name: experiment.link(run_id) for name, run_id in stages.items()}
        tags[MLFLOW_RUN_NOTE] = chain_card(chain, metrics, statement, links)
        experiment.client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        log_files(experiment, run, files)
        if run.info.status != "FINISHED":
            experiment.client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _identity(chain: str, metrics: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, str]:
    parts = [chain, *(str(stage["recipe_digest"]) for stage in metrics["stages"].values()), *metrics.get("views", ())]
    # Nothing at all if nothing is asked for, so that runs of earlier versions are found.
    parts += [asked] if asked else []
    return {"kind": "chain", "chain_digest": json_digest(parts)}


def _figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    figures = {f"bits_per_dim.{name}": float(stage["bits_per_dim"]) for name, stage in metrics["stages"].items()}
    figures |= {f"bits_per_dim.{view}": float(each["bits_per_dim"]) for view, each in metrics.get("views", {}).items()}
    return figures | numbers(metrics)


def _tags(chain: str, metrics: Mapping[str, Any], recipes: Mapping[str, Recipe]) -> dict[str, str]:
    """Return the tags by which the run is found."""
    of_stages = [labels(recipes[stage]) for stage in metrics["stages"]]
    distinct = {key: ", ".join(dict.fromkeys(each[key] for each in of_stages)) for key in of_stages[0]}
    mixture = {"views": ", ".join(metrics["views"])} if "views" in metrics else {}
    return (
        distinct
        | mixture
        | {"chain": chain}
        | {key: metrics[key] for key in ("split", "estimate", "conditioning", "dims")}
    )


def _params(stages: Sequence[str], recipes: Mapping[str, Recipe], taken: Mapping[str, int]) -> dict[str, Any]:
    """Return what params.yaml says of a chain's stages, under the keys that it has there."""
    shared = next(iter(recipes.values()))
    sections = {
        f"{'stages' if name in stages else 'first_stages'}.{name}": _section(recipe, taken.get(name))
        for name, recipe in recipes.items()
    }
    return {"stages": ", ".join(stages), "seed": shared["seed"], "data": shared["data"]} | sections


def _section(recipe: Recipe, taken: int | None) -> dict[str, Any]:
    """Return the section of a network from its recipe, with the training of the trial that was taken."""
    cells = {key: recipe["plan"][key] for key in _CELLS} if "plan" in recipe else {}
    targets = recipe["plan"]["targets"] if "plan" in recipe else []
    if targets != sorted(targets):
        cells["order"] = targets
    training = recipe["training"] if taken is None else recipe["trials"][str(taken)]
    own = {key: value for key, value in recipe.items() if key not in _UNREADABLE}
    return cells | own.pop("first_stage", {}) | own | {"training": training}
