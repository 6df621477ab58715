"""The history of a training: rows at intervals, written as CSV."""

import csv
import io

Row = dict[str, int | float]
"""One line of the history; `step` counts the steps done."""


def history_columns(figure: str = "bits_per_dim") -> tuple[str, ...]:
    """List the columns of a history.csv.

    The figure is estimated: one slice per image is drawn, which is unbiased, and exact if a stage has one slice. That
    of a first stage is its `loss` in training, and in validation the mean absolute error in units of [-1, 1].
    `training_seconds` is the time of all steps so far, including earlier runs, without validation and writing;
    `images_per_second` is by the same clock, since the last row.
    """
    figures = (f"train_{figure}_estimate", f"validation_{figure}_estimate")
    return ("step", *figures, "learning_rate", "gradient_norm", "images_per_second", "training_seconds")


def history_text(rows: list[Row]) -> str:
    """Return the text of a history.csv, with the columns of the figure that the rows have."""
    figure = next(key for key in rows[-1] if key.startswith("train_")).removeprefix("train_").removesuffix("_estimate")
    text = io.StringIO()
    writer = csv.DictWriter(text, history_columns(figure), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
