"""Figures: training curves, and bits/dim of the chains as sums of their stages.

Training curves are estimates from one slice per image; bits/dim of chains are exact, or upper bounds. Each figure says
which.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spn.config import Params
from spn.files import write_bytes
from spn.report.tables import (
    TRAIN,
    VALIDATION,
    ChainMetrics,
    History,
    bits_text,
    chain_text,
    is_of_codes,
    mixture_text,
    of_pixels,
    shares_of,
    statement,
    total_text,
)

# Okabe and Ito's colours, which suit any kind of colour vision; with grey instead of yellow, which is faint on white,
# and of black, which would hide the error bars.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = (None, "///", "...")
Styles = dict[str, tuple[str, str, str | None]]
"""Colour, marker and hatching of every stage."""

LOOK: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,
}
DPI = 120
PANEL_WIDTH, BARS_WIDTH = 4.6, 8.0
"""Inches."""

SETTLED = 0.1
"""Fraction of the steps after which a curve must lie inside its panel; its steep start may leave it."""

LABELLED = 0.08
"""Minimum length of a stage, as a fraction of the longest bar, for its figure to be written inside."""


def plot_curves(
    params: Params, histories: Mapping[str, History], path: Path, chains: Sequence[str] | None = None
) -> None:
    """Draw training and validation curves of every stage, a panel per chain, to a PNG; of all chains, or of some."""
    drawn = {chain: params.plans[chain] for chain in chains or params.plans}
    columns = min(2, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    with rc_context(LOOK):
        figure = Figure(figsize=(PANEL_WIDTH * columns, 2.9 * rows + 0.9), dpi=DPI, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel, (chain, plans) in zip(panels, drawn.items(), strict=False):
            title = f"chain {chain}{'' if params.codes(chain) is None else ' (bits/code)'}"
            _curve_panel(panel, title, {plan.name: histories[plan.name] for plan in plans}, _styles(params))
        for panel in panels[len(drawn) :]:
            panel.set_axis_off()
        figure.suptitle(f"Training of each stage on {params.data.name}")
        figure.supylabel("estimated bits/dim (one slice drawn per image)", fontsize="medium")
        lines = [
            Line2D([], [], color="grey", alpha=0.6, label="training batches, current weights"),
            Line2D([], [], color="grey", marker="o", markersize=3.5, label="validation split, averaged weights"),
        ]
        figure.legend(handles=lines, loc="outside lower center", ncols=columns)
        _save(figure, path)


def plot_bits_per_dim(params: Params, chain_metrics: ChainMetrics, path: Path) -> None:
    """Draw the bits/dim of chains of pixels as bars stacked by stage, with the standard error of the total, to a PNG.

    If all chains generate codes, draw these.
    """
    chain_metrics = of_pixels(chain_metrics)
    unit = f"bits/{'code' if any(map(is_of_codes, chain_metrics.values())) else 'dim'}"
    styles = {name: style for name, style in _bar_styles(params, chain_metrics).items() if _has(chain_metrics, name)}
    longest = max(metrics["bits_per_dim"] for metrics in chain_metrics.values())
    legend_columns = _legend_columns(styles, BARS_WIDTH)
    height = 0.45 * len(chain_metrics) + 1.4 + 0.2 * math.ceil(len(styles) / legend_columns)
    with rc_context(LOOK | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(BARS_WIDTH, height), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for row, metrics in enumerate(chain_metrics.values()):
            _stacked_bar(axes, row, metrics, styles, longest)
        axes.set_yticks(range(len(chain_metrics)), [chain_text(*chain) for chain in chain_metrics.items()])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.2 * longest)
        axes.set_xlabel(f"{unit} (total ± one standard error over images)")
        figure.suptitle(
            f"{unit.capitalize()} of each chain as the sum of its stages\n{fill(statement(params, chain_metrics), 88)}"
        )
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=legend_columns)
        _save(figure, path)


def _has(chain_metrics: ChainMetrics, stage: str) -> bool:
    return any(stage in shares_of(metrics) for metrics in chain_metrics.values())


def _styles(params: Params) -> Styles:
    """Return the style of each stage, the same in all figures; where colours repeat, markers and hatching differ."""
    styles = {}
    for index, name in enumerate(params.stage_plans):
        times, colour = divmod(index, len(COLOURS))
        styles[name] = COLOURS[colour], MARKERS[(index + times) % len(MARKERS)], HATCHES[times % len(HATCHES)]
    return styles


def _bar_styles(params: Params, chain_metrics: ChainMetrics) -> Styles:
    """Return the styles of stages, and of mixtures of orders, which are no sums of these."""
    mixtures = (mixture_text(metrics) for metrics in chain_metrics.values() if "views" in metrics)
    return _styles(params) | dict.fromkeys(mixtures, ("0.6", MARKERS[0], HATCHES[0]))


def _legend_columns(names: Iterable[str], width: float) -> int:
    """Count how many legend entries fit side by side in `width` inches."""
    return max(1, min(4, int(width / (0.6 + 0.08 * max(map(len, names))))))


def _curve_panel(panel: Axes, title: str, histories: dict[str, History], styles: Styles) -> None:
    settled = []
    for name, history in histories.items():
        colour, marker, _ = styles[name]
        for key, look in (
            (TRAIN, {"alpha": 0.5, "linewidth": 0.9}),
            (VALIDATION, {"marker": marker, "markersize": 3.5, "label": name}),
        ):
            points = [(row["step"], row[key]) for row in history if key in row]
            panel.plot([step for step, _ in points], [value for _, value in points], color=colour, **look)
            settled += [value for step, value in points if step >= SETTLED * history[-1]["step"]]
    margin = 0.06 * (max(settled) - min(settled)) or 0.1
    panel.set_ylim(min(settled) - margin, max(settled) + margin)
    panel.set_xlabel("training step")
    panel.legend(
        title=title,
        title_fontsize="large",
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=_legend_columns(histories, PANEL_WIDTH),
    )


def _stacked_bar(axes: Axes, row: int, metrics: Mapping[str, Any], styles: Styles, longest: float) -> None:
    left = 0.0
    for name, stage in shares_of(metrics).items():
        share = stage["bits_per_dim"]
        colour, _, hatch = styles[name]
        look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white"}
        axes.barh(row, share, left=left, height=0.6, label=name, **look)
        if share > LABELLED * longest:
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
            text = bits_text(stage, digits=3)
            axes.text(left + share / 2, row, text, ha="center", va="center", fontsize=8, bbox=box)
        left += share
    total, error = metrics["bits_per_dim"], metrics["standard_error"]
    text = total_text(metrics, digits=3)
    axes.errorbar(total, row, xerr=error, color="black", capsize=3)
    axes.annotate(text, (total + (error or 0), row), xytext=(6, 0), textcoords="offset points", va="center")


def _save(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_bytes(path, content.getvalue())
