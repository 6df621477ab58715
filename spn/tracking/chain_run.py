"""The run of a chain: bits/dim in total and by stage, samples, and links to the runs of its stages."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import RunTag

from spn.tracking.experiment import Experiment
from spn.tracking.runs import log_figures, log_params, numbers, open_run
from spn.tracking.stage_run import stage_run


def record_chain(
    experiment: Experiment,
    metrics: Mapping[str, Any],
    artefacts: Sequence[Path] = (),
    params: Mapping[str, Any] | None = None,
) -> str:
    """Record the contents of a chain's metrics.json, with files to keep beside it; give the id of the run.

    A chain's run is identified by its name and the recipes of its stages, so recording it again changes nothing but
    figures and artefacts that differ. Raises InputError where a stage has no run.
    """
    stages: Mapping[str, Any] = metrics["stages"]
    stage_runs = {
        name: str(stage_run(experiment, name, figures["recipe_digest"]).info.run_id) for name, figures in stages.items()
    }
    digest = _chain_digest(metrics["chain"], [figures["recipe_digest"] for figures in stages.values()])
    run = open_run(experiment, metrics["chain"], {"kind": "chain", "chain_digest": digest})
    client, run_id = experiment.client, str(run.info.run_id)
    log_params(client, run, {"stages": ", ".join(stages), **(params or {})})
    by_stage = {f"bits_per_dim.{name}": figures["bits_per_dim"] for name, figures in stages.items()}
    log_figures(client, run, numbers(metrics) | by_stage)
    tags = {f"stage_run.{name}": stage_run_id for name, stage_run_id in stage_runs.items()}
    tags["mlflow.note.content"] = _description(experiment.id, metrics, stage_runs)
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    for path in artefacts:
        client.log_artifact(run_id, str(path))
    if run.info.status != "FINISHED":
        client.set_terminated(run_id)
    return run_id


def _chain_digest(chain: str, recipe_digests: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([chain, *recipe_digests]).encode()).hexdigest()


def _description(experiment_id: str, metrics: Mapping[str, Any], stage_runs: Mapping[str, str]) -> str:
    """Write the Markdown that the UI shows above a run; its pages live behind the `#` of one address."""
    lines = ["| stage | bits/dim | parameters |", "|:--|--:|--:|"]
    for name, figures in metrics["stages"].items():
        link = f"[{name}](#/experiments/{experiment_id}/runs/{stage_runs[name]})"
        lines.append(f"| {link} | {figures['bits_per_dim']:.4f} | {figures['num_parameters']:,} |")
    total = f"{metrics['bits_per_dim']:.4f} ± {metrics['standard_error']:.4f}"
    lines.append(f"| **{metrics['chain']}** | **{total}** | {metrics['num_parameters']:,} |")
    return "\n".join(lines)
