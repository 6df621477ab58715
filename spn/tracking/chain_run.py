"""The run of a chain: bits/dim in total and by stage, speeds, samples, and links to the runs of its stages."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Run, RunTag
from tabulate import tabulate

from spn.tracking.experiment import Experiment
from spn.tracking.outage import reaching
from spn.tracking.runs import log_figures, log_params, log_pictures, numbers, open_run
from spn.tracking.stage_run import stage_run


def record_chain(
    experiment: Experiment,
    chain: str,
    metrics: Mapping[str, Any],
    pictures: Mapping[str, Path] | None = None,
    inpainting: Mapping[str, Any] | None = None,
) -> str:
    """Record a chain's metrics.json and the throughput of its sampling; return the id of the run.

    `pictures` maps names of artefacts to pictures; `inpainting` has the figures for each mask. The run is identified by
    the chain's name and the recipes of its stages: recording it again makes no second run, writes only figures that
    differ, and replaces the artefacts. Raises InputError if a stage has no run, and TrackingError if the store does not
    answer or refuses an artefact.
    """
    with reaching(experiment.uri):
        run = _open(experiment, chain, metrics, inpainting or {})
        log_pictures(experiment, run, pictures or {})
        if run.info.status != "FINISHED":
            experiment.client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _open(experiment: Experiment, chain: str, metrics: Mapping[str, Any], inpainting: Mapping[str, Any]) -> Run:
    """Find or create the run, and write its figures and links."""
    stages: Mapping[str, Any] = metrics["stages"]
    digests = {name: str(stage["recipe_digest"]) for name, stage in stages.items()}
    stage_runs = {name: str(stage_run(experiment, name, digest).info.run_id) for name, digest in digests.items()}
    identity = {"kind": "chain", "chain_digest": _digest(chain, list(digests.values()))}
    run = open_run(experiment, chain, identity, "spn record")
    log_params(experiment.client, run, {"stages": ", ".join(stages)})
    figures = {"bits_per_dim": float(metrics["bits_per_dim"])}  # first, because the UI keeps the order
    figures |= {f"bits_per_dim.{name}": float(stage["bits_per_dim"]) for name, stage in stages.items()}
    figures |= {
        f"inpainting.{mask}.{name}": float(value["mean"])
        for mask, found in inpainting.items()
        for name, value in found.items()
    }
    log_figures(experiment.client, run, figures | numbers(metrics))
    tags = {f"stage_run.{name}": stage_run_id for name, stage_run_id in stage_runs.items()}
    tags |= {key: metrics[key] for key in ("split", "estimate", "conditioning", "dims")}
    tags["mlflow.note.content"] = _description(experiment.id, chain, metrics, stage_runs)
    experiment.client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    return run


def _digest(chain: str, recipe_digests: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([chain, *recipe_digests]).encode()).hexdigest()


def _description(experiment_id: str, chain: str, metrics: Mapping[str, Any], stage_runs: Mapping[str, str]) -> str:
    """Write the Markdown that the UI shows with the run; its links begin with `#`, because the UI is a single page."""
    rows = [
        (
            f"[{name}](#/experiments/{experiment_id}/runs/{stage_runs[name]})",
            _bits(stage),
            f"{stage['num_parameters']:,}",
        )
        for name, stage in metrics["stages"].items()
    ]
    rows.append((f"**{chain}**", f"**{_bits(metrics)}**", f"{metrics['num_parameters']:,}"))
    unit = "bits/dim" if metrics["dims"] == "sub-pixels" else "bits/code"
    header = ("stage", unit, "parameters")
    return tabulate(rows, header, "pipe", colalign=("left", "right", "right"), disable_numparse=True)


def _bits(metrics: Mapping[str, Any]) -> str:
    return f"{'≤ ' * (metrics['estimate'] == 'bound')}{metrics['bits_per_dim']:.4f}"
