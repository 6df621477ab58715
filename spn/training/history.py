"""The history of a training: rows at intervals, written as CSV."""

import csv
import io

Row = dict[str, int | float]
"""One line of the history; `step` counts the steps done."""

HISTORY = (
    "step",
    "train_bits_per_dim_estimate",
    "validation_bits_per_dim_estimate",
    "learning_rate",
    "gradient_norm",
    "images_per_second",
    "training_seconds",
)
"""Columns of history.csv. An estimate draws one slice per image: it is unbiased, and exact if a stage has one slice.

`training_seconds` is the time of all steps so far, including earlier runs, without validation and writing;
`images_per_second` is by the same clock, since the last row.
"""


def history_text(rows: list[Row]) -> str:
    """Return the text of a history.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
