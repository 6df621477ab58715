"""Tables that compare chains, for the terminal, for DVC and for the report."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tabulate import tabulate

from spn.config import DataSection, InputError, Params
from spn.report.comparison import official_count

ChainMetrics = Mapping[str, Mapping[str, Any]]
"""The metrics.json of every chain by its name, with the speeds of training and sampling, and the trials that were taken
of its stages."""

History = Sequence[Mapping[str, float | int]]
"""Rows of a history.csv; a row has only the values that were measured at its step."""

HEADER = (
    "chain",
    "bits/dim ± standard error",
    "parameters",
    "training (s)",
    "training (images/s)",
    "sampling (images/s)",
    "bits/dim of its stages",
)
SAMPLING = HEADER.index("sampling (images/s)")
"""The column of the only figure that differs when the same samples are drawn again."""

_SPEEDS = ("training_seconds", "training_images_per_second", "sampling_images_per_second")

TRAIN, VALIDATION = "train_bits_per_dim_estimate", "validation_bits_per_dim_estimate"


@dataclass(frozen=True)
class Pictured:
    """Figures of what chains reconstruct, draw and code, if params.yaml asks for any."""

    reconstructions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of first stages."""
    completions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of chains, for each part of images that is given."""
    rates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of chains, the rate.json of coded images."""


def metrics_tree(params: Params, chain_metrics: ChainMetrics, pictured: Pictured) -> dict[str, Any]:
    """Return the figures that are compared between experiments, in full precision; no times, which never repeat.

    Every entry is a column of `dvc exp show`. So the share of a chain's only stage is left out, and so are remarks on a
    figure that is exact, unconditional and of pixels.
    """
    tree = {chain: _figures(metrics) for chain, metrics in chain_metrics.items()}
    for chain, given in pictured.completions.items():
        tree[chain]["completion"] = {
            name: {key: value["mean"] for key, value in figures.items()} for name, figures in given.items()
        }
    for chain, rate in pictured.rates.items():
        tree[chain]["codec"] = {key: rate[key] for key in ("bits_per_dim", "evaluated_bits_per_dim")}
    for chain in tree:
        if (codes := params.codes(chain)) is not None:
            figures = pictured.reconstructions[codes]
            tree[chain]["reconstruction"] = {key: figures[key] for key in ("psnr", "ssim", "codes_used", "perplexity")}
    return tree


def _figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    figures: dict[str, Any] = {key: metrics[key] for key in ("bits_per_dim", "standard_error")}
    if "views" in metrics:
        figures["views"] = {view: each["bits_per_dim"] for view, each in metrics["views"].items()}
    elif len(metrics["stages"]) > 1:
        figures["stages"] = {name: stage["bits_per_dim"] for name, stage in metrics["stages"].items()}
    figures["num_parameters"] = metrics["num_parameters"]
    plain = {"estimate": "exact", "conditioning": "none", "dims": "sub-pixels"}
    return figures | {key: metrics[key] for key, usual in plain.items() if metrics[key] != usual}


def statement(params: Params, chain_metrics: ChainMetrics) -> str:
    """Say in one line what the figures are: exact or bounds, over which images.

    Raises InputError if the chains were not all evaluated on the same images.
    """
    over = {chain: (each["split"], each["num_images"]) for chain, each in chain_metrics.items()}
    if len(set(over.values())) > 1:
        found = "; ".join(f"{chain}: {split} {count}" for chain, (split, count) in over.items())
        raise InputError(f"chains: expected metrics over the same images, got {found}")
    split, count = next(iter(over.values()))
    bounds = [is_bound(each) for each in chain_metrics.values()]
    estimate = "upper bounds (≤)" if all(bounds) else "exact, but for upper bounds (≤)" if any(bounds) else "exact"
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


def is_bound(metrics: Mapping[str, Any]) -> bool:
    """Tell whether the bits/dim of a chain or stage are an upper bound."""
    return bool(metrics["estimate"] == "bound")


def chain_text(chain: str, metrics: Mapping[str, Any]) -> str:
    """Return a chain's name, remarking if it is a mixture of orders, conditional, or generates codes and no pixels."""
    remarks = [
        *([mixture_text(metrics)] if "views" in metrics else []),
        *([f"{metrics['conditioning']}-conditional"] if metrics["conditioning"] != "none" else []),
        *([metrics["dims"]] if is_of_codes(metrics) else []),
    ]
    return f"{chain} ({', '.join(remarks)})" if remarks else chain


def mixture_text(metrics: Mapping[str, Any]) -> str:
    """Say of how many orders a chain is a mixture."""
    return f"mixture of {len(metrics['views'])} orders"


def shares_of(metrics: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return the figures that add up to a chain's: those of its stages, or the whole of a mixture of orders."""
    return {mixture_text(metrics): metrics} if "views" in metrics else metrics["stages"]


def is_of_codes(metrics: Mapping[str, Any]) -> bool:
    """Tell whether a chain or stage generates codes, so that its bits are no bits/dim of images."""
    return bool(metrics["dims"] != "sub-pixels")


def of_pixels(chain_metrics: ChainMetrics) -> ChainMetrics:
    """Return the chains whose bits/dim can be compared, those of pixels; all of them if every chain generates codes."""
    return {chain: each for chain, each in chain_metrics.items() if not is_of_codes(each)} or chain_metrics


def bits_text(metrics: Mapping[str, Any], digits: int = 4) -> str:
    """Write the bits/dim of a chain or stage, after ≤ if they are an upper bound."""
    return f"{'≤ ' * is_bound(metrics)}{metrics['bits_per_dim']:.{digits}f}"


def total_text(metrics: Mapping[str, Any], digits: int = 4) -> str:
    """Write bits/dim ± standard error; a single image has no standard error."""
    error = metrics["standard_error"]
    return bits_text(metrics, digits) + ("" if error is None else f" ± {error:.{digits}f}")


def metrics_line(metrics: Mapping[str, Any]) -> str:
    """Write the bits/dim of a stage as one line."""
    what = "an upper bound" if is_bound(metrics) else "exact"
    unit = "bits per code" if is_of_codes(metrics) else "bits/dim"
    return f"{metrics['stage']}: {total_text(metrics)} {unit}, {what}, over {metrics['num_images']:,} test images"


def table_rows(chain_metrics: ChainMetrics) -> list[tuple[str, ...]]:
    """Write a row for every chain, with the columns of HEADER."""
    return [
        (
            chain_text(chain, metrics),
            total_text(metrics),
            f"{metrics['num_parameters']:,}",
            *(_three_digits(metrics.get(key)) for key in _SPEEDS),
            _parts_text(metrics),
        )
        for chain, metrics in chain_metrics.items()
    ]


def _parts_text(metrics: Mapping[str, Any]) -> str:
    """Write what adds up to a chain's figure, or what a mixture of orders mixes."""
    if "views" in metrics:  # never a bound
        return "mixed: " + ", ".join(f"{view['bits_per_dim']:.4f} {name}" for name, view in metrics["views"].items())
    return " + ".join(f"{bits_text(stage)} {name}" for name, stage in metrics["stages"].items())


def mixture_lines(chain_metrics: ChainMetrics) -> list[str]:
    """Say what the figures of mixtures of orders are; nothing if there are none."""
    names = [chain for chain, metrics in chain_metrics.items() if "views" in metrics]
    if not names:
        return []
    return [f"{', '.join(names)}: the mean law of several orders of one network, exact; no figure of a single order"]


def _three_digits(value: float | None) -> str:
    """Round a timed figure to three digits; a dash if it was not timed here."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def trial_lines(params: Params, chain_metrics: ChainMetrics) -> list[str]:
    """Write a line for each stage with trials: which of them was taken, and what it changes; none without trials."""
    taken = {stage: trial for metrics in chain_metrics.values() for stage, trial in metrics["taken"].items()}
    lines = [
        f"{stage}: {params.stages[stage].trial_text(trial, ' by validation estimate')}"
        for stage, trial in taken.items()
    ]
    return [*lines, "training (s) and (images/s) are those of the trials taken, without the others"] if lines else []


def gap_lines(params: Params, chain_metrics: ChainMetrics) -> list[str]:
    """Say in one line by how much the best chain leads the last, and what their trainings had; none for one chain.

    Bounds are left out, because another chain's figure may lie between a bound and what it bounds; so are codes.
    """
    exact = {
        chain: metrics for chain, metrics in chain_metrics.items() if not (is_bound(metrics) or is_of_codes(metrics))
    }
    if len(exact) < 2:
        return []
    best, *_, last = sorted(exact, key=lambda chain: exact[chain]["bits_per_dim"])
    gap = exact[last]["bits_per_dim"] - exact[best]["bits_per_dim"]
    ours, theirs = (_training_text(params, chain, exact[chain]) for chain in (best, last))
    return [f"{best} is {gap:.4f} bits/dim ahead of {last}: it learned from {ours}; {last} from {theirs}"]


def _training_text(params: Params, chain: str, metrics: Mapping[str, Any]) -> str:
    """Say how many sub-pixels the trainings of a chain's stages saw, in which time, and under which laws."""
    num_seen = 0
    for plan in params.plans[chain]:
        section = params.stages[plan.name]
        training = section.trainings[metrics["taken"].get(plan.name, 0)]
        num_seen += training.steps * training.batch_size * math.prod(params.data.shape) // plan.scale_factor**2
    laws = list(dict.fromkeys(params.stages[plan.name].model.law for plan in params.plans[chain]))
    seconds = _three_digits(metrics["training_seconds"])
    return f"{_three_digits(num_seen / 1e6)} million sub-pixels in {seconds} s ({', '.join(laws)})"


def draw_lines(chain_metrics: ChainMetrics) -> list[str]:
    """Write a line for each chain that is a bound: its draws, and their standard error if it is known."""
    lines = []
    for chain, metrics in chain_metrics.items():
        draws = sorted({stage["draws"] for stage in metrics["stages"].values() if "draws" in stage})
        if draws:
            what = "1 draw" if draws == [1] else f"the mean of {' or '.join(map(str, draws))} draws"
            error = metrics["standard_error_of_draws"]
            known = "whose standard error is not known" if error is None else f"with a standard error of {error:.4f}"
            lines.append(f"{chain}: {what} of noise for each image, {known}")
    return lines


def code_lines(chain_metrics: ChainMetrics) -> list[str]:
    """Say what the figures of chains that generate codes are; nothing if there are none."""
    names = [chain for chain, metrics in chain_metrics.items() if is_of_codes(metrics)]
    return [f"{', '.join(names)}: bits per code, which are no bits/dim of images"] if names else []


def note_lines(params: Params, chain_metrics: ChainMetrics) -> list[str]:
    """Return the lines below a table: on draws, codes, trials, and on the gap between chains."""
    return [
        *draw_lines(chain_metrics),
        *code_lines(chain_metrics),
        *mixture_lines(chain_metrics),
        *trial_lines(params, chain_metrics),
        *gap_lines(params, chain_metrics),
    ]


def text_table(params: Params, chain_metrics: ChainMetrics) -> str:
    """Lay out the chains for a terminal, above a line that says what the figures are, and notes."""
    align = ("left", "left", "right", "right", "right", "right", "left")
    rows = [HEADER, *table_rows(chain_metrics)]
    table = tabulate(rows, tablefmt="plain", colalign=align, disable_numparse=True)
    return "\n".join([table, statement(params, chain_metrics), *note_lines(params, chain_metrics)])


def curve_csv(history: History) -> str:
    """Write the validation steps of a history as CSV: step, training and validation estimates.

    Only these, because DVC plots an empty cell as 0; every row is in the stage's history.csv.
    """
    keys = ("step", TRAIN, VALIDATION)
    return _csv(keys, ([row[key] for key in keys] for row in history if VALIDATION in row))


def shares_csv(chain_metrics: ChainMetrics) -> str:
    """Write the bits/dim of every stage of chains of pixels as CSV; chain names note bounds and conditioning."""
    shares = (
        (f"{chain_text(chain, metrics)}{' (bound)' * is_bound(metrics)}", name, stage["bits_per_dim"])
        for chain, metrics in of_pixels(chain_metrics).items()
        for name, stage in shares_of(metrics).items()
    )
    return _csv(("chain", "stage", "bits_per_dim"), shares)


def _csv(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
