"""The history of a training: a row now and then, as a CSV file for people and for DVC's plots."""

import csv
import io
from pathlib import Path

from spn.files import write_text

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
"""Columns of history.csv. An estimate draws one slice per image: unbiased, and exact where a stage has one slice.

`training_seconds` are those of all steps so far, of earlier runs too, without validations and writing;
`images_per_second` is by the same clock, since the row before.
"""


def write_history(path: Path, rows: list[Row]) -> None:
    """Write a history.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
