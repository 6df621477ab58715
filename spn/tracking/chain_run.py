"""The run of a chain: bits/dim in total and by stage, speeds, samples, and links to the runs of its stages."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import RunTag

from spn.tracking.experiment import Experiment
from spn.tracking.runs import log_figures, log_params, numbers, open_run
from spn.tracking.stage_run import stage_run


def record_chain(
    experiment: Experiment, chain: str, metrics: Mapping[str, Any], samples: Mapping[str, Path] | None = None
) -> str:
    """Record a chain's metrics.json and the throughput of its sampling; give the id of the run.

    `samples` are pictures to keep as artefacts, by the name they get there. The run is identified by the chain's name
    and the recipes of its stages: recording it again makes no second run, writes figures only where they differ, and
    replaces the artefacts. Raises InputError where a stage has no run.
    """
    stages: Mapping[str, Any] = metrics["stages"]
    digests = {name: str(stage["recipe_digest"]) for name, stage in stages.items()}
    stage_runs = {name: str(stage_run(experiment, name, digest).info.run_id) for name, digest in digests.items()}
    identity = {"kind": "chain", "chain_digest": _digest(chain, list(digests.values()))}
    run = open_run(experiment, chain, identity, "spn record")
    client, run_id = experiment.client, str(run.info.run_id)
    log_params(client, run, {"stages": ", ".join(stages)})
    figures = {"bits_per_dim": float(metrics["bits_per_dim"])}  # first, because the UI keeps the order
    figures |= {f"bits_per_dim.{name}": float(stage["bits_per_dim"]) for name, stage in stages.items()}
    log_figures(client, run, figures | numbers(metrics))
    tags = {f"stage_run.{name}": stage_run_id for name, stage_run_id in stage_runs.items()}
    tags |= {key: metrics[key] for key in ("split", "estimate", "conditioning")}
    tags["mlflow.note.content"] = _description(experiment.id, chain, metrics, stage_runs)
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    with tempfile.TemporaryDirectory() as folder:  # MLflow names an artefact after its file
        for name, path in (samples or {}).items():
            client.log_artifact(run_id, shutil.copyfile(path, f"{folder}/{name}"))
    if run.info.status != "FINISHED":
        client.set_terminated(run_id)
    return run_id


def _digest(chain: str, recipe_digests: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([chain, *recipe_digests]).encode()).hexdigest()


def _description(experiment_id: str, chain: str, metrics: Mapping[str, Any], stage_runs: Mapping[str, str]) -> str:
    """Write the Markdown that the UI shows with the run; every page of the UI lies behind the `#` of one address."""
    lines = ["| stage | bits/dim | parameters |", "|:--|--:|--:|"]
    for name, stage in metrics["stages"].items():
        link = f"[{name}](#/experiments/{experiment_id}/runs/{stage_runs[name]})"
        lines.append(f"| {link} | {_bits(stage)} | {stage['num_parameters']:,} |")
    lines.append(f"| **{chain}** | **{_bits(metrics)}** | {metrics['num_parameters']:,} |")
    return "\n".join(lines)


def _bits(metrics: Mapping[str, Any]) -> str:
    return f"{'≤ ' * (metrics['estimate'] == 'bound')}{metrics['bits_per_dim']:.4f}"
