"""Figures: training curves, and bits/dim of the chains as sums of their stages.

What is drawn during training is an estimate from one slice per image and says so; bits/dim of chains are exact.
"""

import io
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spn.config import Params
from spn.report.files import write_bytes

History = Sequence[Mapping[str, float]]
"""Rows of a history.csv; what was not measured is absent from its row."""

TRAIN, VALIDATION = "train_bits_per_dim_estimate", "validation_bits_per_dim_estimate"

# Okabe and Ito's colours, told apart with any kind of colour vision; without yellow, which is faint on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

LOOK: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "legend.frameon": False,
}

SETTLED = 0.1
"""Share of the steps after which a curve must lie inside its panel; the steep start may leave it."""

LABELLED = 0.08
"""Share of the longest bar that a stage needs for its figure to be written inside."""


def plot_curves(params: Params, histories: Mapping[str, History], path: Path) -> None:
    """Draw training and validation curves of every stage, a panel per chain, to a PNG."""
    columns = min(2, len(params.plans))
    rows = math.ceil(len(params.plans) / columns)
    with rc_context(LOOK):
        figure = Figure(figsize=(4.6 * columns, 2.9 * rows + 0.9), dpi=120, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel, (chain, plans) in zip(panels, params.plans.items(), strict=False):
            _curve_panel(panel, {plan.name: histories[plan.name] for plan in plans}, _styles(params))
            panel.set_title(f"chain {chain}")
        for panel in panels[len(params.plans) :]:
            panel.set_axis_off()
        figure.suptitle(f"Training of each stage on {params.data.name}")
        figure.supxlabel("training step")
        figure.supylabel("estimated bits/dim (one slice drawn per image)")
        lines = [
            Line2D([], [], color="grey", alpha=0.6, label="training batches, current weights"),
            Line2D([], [], color="grey", marker="o", markersize=3.5, label="validation split, averaged weights"),
        ]
        figure.legend(handles=lines, loc="outside lower center", ncols=2)
        _save(figure, path)


def plot_bits_per_dim(params: Params, chain_metrics: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw every chain's bits/dim as a bar stacked by stage, with the standard error of the total, to a PNG."""
    styles = _styles(params)
    longest = max(metrics["bits_per_dim"] for metrics in chain_metrics.values())
    with rc_context(LOOK | {"axes.grid.axis": "x"}):
        legend_rows = math.ceil(len(styles) / 4)
        height = 0.5 * len(chain_metrics) + 1.3 + 0.2 * legend_rows
        figure = Figure(figsize=(8, height), dpi=120, layout="constrained")
        axes = figure.subplots()
        for position, metrics in enumerate(chain_metrics.values()):
            _stacked_bar(axes, position, metrics, styles, longest)
        axes.set_yticks(range(len(chain_metrics)), list(chain_metrics))
        axes.invert_yaxis()
        axes.set_xlim(0, 1.2 * longest)
        axes.set_xlabel("bits/dim (total ± one standard error over images)")
        axes.set_title(f"Bits/dim on {params.data.name}, as the sum of each chain's stages")
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=4)
        _save(figure, path)


def _styles(params: Params) -> dict[str, tuple[str, str]]:
    """Give every stage the colour and marker that it has in all figures."""
    return dict(zip(params.stage_plans, cycle(zip(COLOURS, MARKERS, strict=True)), strict=False))


def _curve_panel(panel: Axes, histories: dict[str, History], styles: dict[str, tuple[str, str]]) -> None:
    settled = []
    for name, history in histories.items():
        colour, marker = styles[name]
        for key, look in (
            (TRAIN, {"alpha": 0.5, "linewidth": 0.9}),
            (VALIDATION, {"marker": marker, "markersize": 3.5, "label": name}),
        ):
            points = [(row["step"], row[key]) for row in history if key in row]
            panel.plot([step for step, _ in points], [value for _, value in points], color=colour, **look)
            settled += [value for step, value in points if step >= SETTLED * history[-1]["step"]]
    margin = 0.06 * (max(settled) - min(settled)) or 0.1
    panel.set_ylim(min(settled) - margin, max(settled) + margin)
    panel.legend(title="stage", loc="upper right")


def _stacked_bar(
    axes: Axes, position: int, metrics: Mapping[str, Any], styles: dict[str, tuple[str, str]], longest: float
) -> None:
    left = 0.0
    for name, stage in metrics["stages"].items():
        share = stage["bits_per_dim"]
        axes.barh(position, share, left=left, height=0.6, color=styles[name][0], edgecolor="white", label=name)
        if share > LABELLED * longest:
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
            axes.text(left + share / 2, position, f"{share:.3f}", ha="center", va="center", fontsize=8, bbox=box)
        left += share
    total, error = metrics["bits_per_dim"], metrics["standard_error"]
    text = f"{total:.3f}" if error is None else f"{total:.3f} ± {error:.3f}"
    axes.errorbar(total, position, xerr=error, color="black", capsize=3)
    axes.annotate(text, (total + (error or 0), position), xytext=(6, 0), textcoords="offset points", va="center")


def _save(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_bytes(path, content.getvalue())
