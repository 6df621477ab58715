"""Descriptions of runs in Markdown, which MLflow shows above their figures: what was measured, and how to repeat it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from spn.paths import METRICS, record_path, stage_folder
from spn.provenance import git_commit

_OF_CHAIN = "the `params.yaml` of the chain's run"


def chain_card(chain: str, metrics: Mapping[str, Any], statement: str, links: Mapping[str, str]) -> str:
    """Describe a chain; `statement` says what its figures are, and `links` has the address of each stage's run."""
    rows = [_row(f"[{name}]({links[name]})", stage) for name, stage in metrics["stages"].items()]
    rows.append(_row(f"**{chain}**", metrics))
    header = ("stage", _unit(metrics), "parameters")
    table = tabulate(rows, header, "pipe", colalign=("left", "right", "right"), disable_numparse=True)
    return "\n\n".join(
        [_sentence(metrics, statement), table, _repetition(record_path(chain), "the artefact `params.yaml`")]
    )


def stage_card(metrics: Mapping[str, Any], statement: str, chains: Sequence[str]) -> str:
    """Describe a stage of some chains by the share of their figures that is its own."""
    made = stage_folder(metrics["stage"]) / METRICS
    share = f"Its share of {' and '.join(chains)}: {_sentence(metrics, statement)}"
    return "\n\n".join([share, _repetition(made, _OF_CHAIN)])


def first_stage_card(first_stage: str, metrics: Mapping[str, Any]) -> str:
    """Describe a first stage, whose figures are those of its reconstructions."""
    worth = f"Its figures are those of all {metrics['num_images']:,} {metrics['split']} images from their codes."
    return "\n\n".join([worth, _repetition(stage_folder(first_stage) / METRICS, _OF_CHAIN)])


def _sentence(metrics: Mapping[str, Any], statement: str) -> str:
    conditioning = metrics["conditioning"]
    given = "" if conditioning == "none" else f", given each image's {conditioning}"
    given += f", a mixture of {len(metrics['views'])} orders" if "views" in metrics else ""
    return f"**{_bits(metrics)} {_unit(metrics)}**{given}: {statement}"


def _row(name: str, metrics: Mapping[str, Any]) -> tuple[str, str, str]:
    return name, _bits(metrics), f"{metrics['num_parameters']:,}"


def _bits(metrics: Mapping[str, Any]) -> str:
    error = metrics["standard_error"]  # a single image has none
    figure = f"{metrics['bits_per_dim']:.4f}" + ("" if error is None else f" ± {error:.4f}")
    return f"{'≤ ' * (metrics['estimate'] == 'bound')}{figure}"


def _unit(metrics: Mapping[str, Any]) -> str:
    return "bits/dim" if metrics["dims"] == "sub-pixels" else "bits/code"


def _repetition(made: Path, params: str) -> str:
    commit = git_commit()
    at = "" if commit is None else f" at commit `{commit}`"
    return f"To repeat it{at}: `snakemake --cores all {made}`, with {params}."
