"""The table of the report, as one HTML page that loads nothing else."""

from collections.abc import Sequence
from html import escape

from spn.config import Params
from spn.report.comparison import Comparison, comparable
from spn.report.published import Published
from spn.report.tables import HEADER, SAMPLING, ChainMetrics, note_lines, statement, table_rows

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5em; color: #222; background: #fff; }
table { border-collapse: collapse; margin: 0.5em 0 1.5em; }
caption, p { text-align: left; max-width: 60em; margin-bottom: 0.5em; }
th, td { padding: 0.3em 1em 0.3em 0; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
"""


def html_table(params: Params, chain_metrics: ChainMetrics) -> str:
    """Lay out the chains, then the published figures or the reason why none are shown.

    Sampling speed is left out, so that the same results always make the same page, which is versioned.
    """
    num_images = next(iter(chain_metrics.values()))["num_images"]
    measured = _table(
        f"Measured here: {statement(params, chain_metrics)}.",
        _without_sampling(HEADER),
        [_without_sampling(row) for row in table_rows(chain_metrics)],
        numbers=range(1, len(HEADER) - 2),
    )
    notes = "".join(f"<p>{escape(line)}.</p>\n" for line in note_lines(params, chain_metrics))
    is_told = any(metrics["conditioning"] != "none" for metrics in chain_metrics.values())
    published = _published(comparable(params.data, num_images), is_told)
    title = f"Bits/dim on {escape(params.data.name)}"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{measured}{notes}{published}</body>\n</html>\n"
    )


def _without_sampling(row: Sequence[str]) -> Sequence[str]:
    return (*row[:SAMPLING], *row[SAMPLING + 1 :])


def _published(found: Comparison | str, is_told: bool) -> str:
    if isinstance(found, str):
        return f"<p>No published figures are shown: {escape(found)}.</p>\n"
    caveats = f" ({'; '.join(found.caveats)})" if found.caveats else ""
    table = _table(
        f"Published: {found.benchmark}{caveats}.",
        ("model", "bits/dim", "source"),
        [(row.model, f"{row.bits_per_dim:.2f}{'†' * row.recalled}", f"{row.source} {row.year}") for row in found.rows],
        numbers=(1,),
    )
    bounds = "Flows, variational auto-encoders and diffusion models report upper bounds."
    classes = " Conditional chains are given each image's class or caption, which published models are not." * is_told
    return f"{table}<p>{bounds}{classes}{_footnote(found.rows)}</p>\n"


def _footnote(rows: Sequence[Published]) -> str:
    if not any(row.recalled for row in rows):
        return ""
    return "<br>† Recalled: the figure, or which variant it belongs to, was not checked against the publication."


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> str:
    """Write a table; `numbers` lists the columns aligned to the right."""
    kinds = [' class="number"' if index in numbers else "" for index in range(len(header))]
    head = "".join(f"<th{kind}>{escape(text)}</th>" for kind, text in zip(kinds, header, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, row, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f"<table>\n<caption>{escape(caption)}</caption>\n<tr>{head}</tr>\n{body}</table>\n"
