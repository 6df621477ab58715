"""The table of chains, and of published figures, as HTML."""

from collections.abc import Sequence
from html import escape

from spn.config import Params
from spn.report.comparison import Comparison, comparable
from spn.report.html import table
from spn.report.published import Published
from spn.report.tables import HEADER, SAMPLING, ChainMetrics, note_lines, statement, table_rows


def html_table(params: Params, chain_metrics: ChainMetrics) -> str:
    """Lay out the chains, then the published figures or the reason why none are shown.

    Sampling speed is left out, so that the same results always make the same page, which is versioned.
    """
    num_images = next(iter(chain_metrics.values()))["num_images"]
    measured = table(
        f"Measured here: {statement(params, chain_metrics)}.",
        _without_sampling(HEADER),
        [_without_sampling(row) for row in table_rows(chain_metrics)],
        numbers=range(1, len(HEADER) - 2),
    )
    notes = "".join(f"<p>{escape(line)}.</p>\n" for line in note_lines(params, chain_metrics))
    is_told = any(metrics["conditioning"] != "none" for metrics in chain_metrics.values())
    published = _published(comparable(params.data, num_images), is_told)
    return f"{measured}{notes}{published}"


def _without_sampling(row: Sequence[str]) -> Sequence[str]:
    return (*row[:SAMPLING], *row[SAMPLING + 1 :])


def _published(found: Comparison | str, is_told: bool) -> str:
    if isinstance(found, str):
        return f"<p>No published figures are shown: {escape(found)}.</p>\n"
    caveats = f" ({'; '.join(found.caveats)})" if found.caveats else ""
    figures = table(
        f"Published: {found.benchmark}{caveats}.",
        ("model", "bits/dim", "source"),
        [(row.model, f"{row.bits_per_dim:.2f}{'†' * row.recalled}", f"{row.source} {row.year}") for row in found.rows],
        numbers=(1,),
    )
    bounds = "Flows, variational auto-encoders and diffusion models report upper bounds."
    classes = " Conditional chains are given each image's class or caption, which published models are not." * is_told
    return f"{figures}<p>{bounds}{classes}{_footnote(found.rows)}</p>\n"


def _footnote(rows: Sequence[Published]) -> str:
    if not any(row.recalled for row in rows):
        return ""
    return "<br>† Recalled: the figure, or which variant it belongs to, was not checked against the publication."
