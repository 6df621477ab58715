"""Tables of the chains' bits/dim: for a terminal, for DVC and for the pipeline's report."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spn.config import DataSection, InputError, Params
from spn.report.comparison import official_count

ChainMetrics = Mapping[str, Mapping[str, Any]]
"""The metrics.json of every chain, by its name."""

History = Sequence[Mapping[str, float | int]]
"""Rows of a history.csv; what was not measured is absent from its row."""

TRAIN, VALIDATION = "train_bits_per_dim_estimate", "validation_bits_per_dim_estimate"


def metrics_tree(chain_metrics: ChainMetrics) -> dict[str, Any]:
    """Keep of every chain what is compared between experiments, in full precision."""
    return {
        chain: {
            "bits_per_dim": metrics["bits_per_dim"],
            "standard_error": metrics["standard_error"],
            "num_parameters": metrics["num_parameters"],
            "stages": {name: stage["bits_per_dim"] for name, stage in metrics["stages"].items()},
        }
        for chain, metrics in chain_metrics.items()
    }


def statement(params: Params, chain_metrics: ChainMetrics) -> str:
    """Say in one line what the figures are: exact or not, over which images.

    Raises InputError when the chains were not all evaluated on the same images.
    """
    over = {chain: (each["estimate"], each["split"], each["num_images"]) for chain, each in chain_metrics.items()}
    if len(set(over.values())) > 1:
        found = "; ".join(f"{chain}: {' '.join(map(str, each))}" for chain, each in over.items())
        raise InputError(f"chains: expected metrics over the same images, got {found}")
    estimate, split, count = next(iter(over.values()))
    data = params.data
    release = getattr(data, "release", "")
    name = f"{data.name} ({release})" if release else data.name
    trained = "" if data.limit.train is None else f"; trained on at most {data.limit.train:,} images"
    height, width, channels = data.shape
    images = _count_images(data, split, count)
    return f"{estimate}, over {images} of {name}, {height}x{width}x{channels}, {data.bits} bits{trained}"


def _count_images(data: DataSection, split: str, count: int) -> str:
    official = official_count(data) if split == "test" else None
    if count != official and getattr(data.limit, split) == count:
        return f"the {count:,} {split} images that data.limit.{split} keeps"
    if official is not None and count < official:
        return f"{count:,} of {official:,} {split} images"
    return f"all {count:,} {split} images"


def table_rows(chain_metrics: ChainMetrics) -> list[tuple[str, str, str, str]]:
    """Write out every chain: name, bits/dim ± standard error, parameters, the stages' shares of bits/dim."""
    rows = []
    for chain, metrics in chain_metrics.items():
        error = metrics["standard_error"]
        total = f"{metrics['bits_per_dim']:.4f}" + ("" if error is None else f" ± {error:.4f}")
        shares = " + ".join(f"{stage['bits_per_dim']:.4f} {name}" for name, stage in metrics["stages"].items())
        rows.append((chain, total, f"{metrics['num_parameters']:,}", shares))
    return rows


def text_table(params: Params, chain_metrics: ChainMetrics) -> str:
    """Lay out the chains' bits/dim for a terminal; the last line says what the figures are."""
    rows = [("chain", "bits/dim ± standard error", "parameters", "stages"), *table_rows(chain_metrics)]
    chain, total, size, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [f"{row[0]:<{chain}}  {row[1]:<{total}}  {row[2]:>{size}}  {row[3]}" for row in rows]
    return "\n".join([*lines, statement(params, chain_metrics)])


def curve_csv(history: History) -> str:
    """Write the validation steps of a history as CSV: step, training and validation estimates.

    Only these, because DVC plots an empty cell as 0; every row is in the stage's history.csv.
    """
    keys = ("step", TRAIN, VALIDATION)
    return _csv(keys, ([row[key] for key in keys] for row in history if VALIDATION in row))


def shares_csv(chain_metrics: ChainMetrics) -> str:
    """Write the bits/dim of every stage of every chain as CSV."""
    shares = (
        (chain, name, stage["bits_per_dim"])
        for chain, metrics in chain_metrics.items()
        for name, stage in metrics["stages"].items()
    )
    return _csv(("chain", "stage", "bits_per_dim"), shares)


def _csv(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
