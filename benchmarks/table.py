"""Rows of the tables, their targets, and how they are printed."""

from dataclasses import asdict, dataclass
from typing import Any

from tabulate import tabulate

from benchmarks.measure import Spread, ratios, spread


@dataclass(frozen=True)
class Target:
    """The figure that a row must reach, and the one it aims at; `at_most` if less is better."""

    must: float
    aim: float
    at_most: bool = False

    def is_met(self, figure: float) -> bool:
        """Tell whether a figure reaches the must."""
        return figure <= self.must if self.at_most else figure >= self.must


@dataclass(frozen=True)
class Row:
    """One line of a table. The target applies to the ratio if there is a baseline, else to our figure."""

    group: str
    name: str
    unit: str
    ours: Spread
    baseline: Spread | None = None
    ratio: Spread | None = None
    target: Target | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Tell whether the must is reached; None if there is no target."""
        figure = (self.ratio or self.ours).median
        return self.target.is_met(figure) if self.target else None

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        return asdict(self) | {"met": self.met}


def faster(group: str, name: str, ours: list[float], baseline: list[float], work: float, unit: str, **rest: Any) -> Row:
    """Compare seconds spent on the same `work`: rates in `unit`, and our speed-up."""
    return Row(
        group,
        name,
        unit,
        ours=spread(work / seconds for seconds in ours),
        baseline=spread(work / seconds for seconds in baseline),
        ratio=spread(ratios(baseline, ours)),
        **rest,
    )


def markdown(rows: list[Row]) -> str:
    """Render one table per group, with the notes below each."""
    return "\n\n".join(
        _table(group, [row for row in rows if row.group == group]) for group in dict.fromkeys(row.group for row in rows)
    )


def _table(group: str, rows: list[Row]) -> str:
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    header = ("", "ours", "baseline", "unit", "ratio (range)", "must", "aim", "met")
    table = tabulate([_cells(row, notes) for row in rows], header, "github", disable_numparse=True)
    lines = [f"**{group}**", "", table]
    if notes:
        lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, start=1))]
    return "\n".join(lines)


def _cells(row: Row, notes: list[str]) -> list[str]:
    mark = f" ({notes.index(row.note) + 1})" if row.note else ""
    sign = "≤ " if row.target and row.target.at_most else ""
    return [
        row.name + mark,
        _short(row.ours.median),
        _short(row.baseline.median) if row.baseline else "",
        row.unit,
        _range(row.ratio) if row.ratio else "",
        sign + _short(row.target.must) if row.target else "",
        sign + _short(row.target.aim) if row.target else "",
        {True: "yes", False: "**no**", None: ""}[row.met],
    ]


def _range(ratio: Spread) -> str:
    low, high = _short(ratio.low), _short(ratio.high)
    return _short(ratio.median) if low == high else f"{_short(ratio.median)} ({low}-{high})"


def _short(value: float) -> str:
    """Write three significant digits, and all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
