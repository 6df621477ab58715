"""Scores pictures with a trained chain: bits/dim of each, by stage, as a table, a map of bits, or a sorted grid."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from spn.api import ChainModel, load
from spn.api.arguments import ScoreOptions
from spn.api.folder import find
from spn.config import InputError
from spn.likelihood import bits_per_dim
from spn.pipeline.place import choose_device
from spn.report.bits import draw_maps, draw_sorted
from spn.tools.foreign import MADE, compare_sources
from spn.tools.reading import read_levels
from spn.tools.writing import check_output

FORMATS = ("table", "csv", "json")
MOST_SOURCES = 12


def score(
    model: Path,
    pictures: Sequence[Path],
    *,
    chain: str | None = None,
    form: str = "table",
    maps: Path | None = None,
    grid: Path | None = None,
    sources: Path | None = None,
    fit: bool = False,
    only: int | None = None,
    caption: str | None = None,
    exact: bool = False,
    batch_size: int | None = None,
    device: str = "auto",
    threads: int = 1,
) -> Iterator[str]:
    """Yield the bits/dim of every picture, and what each stage adds to it, as a table, CSV or JSON.

    `pictures` are files, folders of pictures, or .npy arrays uint8 [N, H, W, C] of levels; with `fit` pictures of any
    size are cropped and resized. `maps` draws the bits of every pixel beside each picture, `grid` the pictures from the
    likeliest to the least likely, `sources` each of `pictures` as a source, beside noise, constants and others that are
    made of the first; its table of sources follows the table. Raises InputError for pictures that do not fit the model.
    """
    if form not in FORMATS:
        raise InputError(f"--format: expected one of {', '.join(FORMATS)}, got {form}")
    _check_outputs({"--map": maps, "--grid": grid, "--sources": sources}, [find(model, chain), *pictures])
    if sources is not None and len(pictures) > MOST_SOURCES:
        raise InputError(f"--sources: expected at most {MOST_SOURCES} folders or arrays, got {len(pictures)}")
    if sources is not None and (twice := [str(each) for each, count in Counter(pictures).items() if count > 1]):
        raise InputError(f"--sources: expected different folders or arrays, got twice: {', '.join(twice)}")
    if sources is not None and (taken := {*MADE} & {*map(str, pictures)}):
        raise InputError(f"--sources: expected other names than those of the sources made here, got {', '.join(taken)}")
    trained = load(model, chain, choose_device(device, threads))
    read = [read_levels([path], trained.params.data, fit=fit) for path in pictures]
    names, levels = [name for part, _ in read for name in part], [each for _, each in read]
    images = torch.cat(levels).numpy()
    options: ScoreOptions = {"label": only if caption is None else caption, "exact": exact}
    if batch_size is not None:
        options["batch_size"] = batch_size
    if trained.views and maps is not None:
        raise InputError(f"--map: expected a chain of one order, got {trained.chain}, a mixture of orders")
    # Of a mixture of orders there is only the figure of whole images.
    nats = {} if trained.views else trained.nats(images, per="stage", **options)
    stages = {name: bits_per_dim(each, trained.num_dims) for name, each in nats.items()}
    total = np.sum(list(stages.values()), axis=0) if stages else trained.bits_per_dim(images, **options)
    white = trained.params.data.white_level
    if maps is not None:
        bits = trained.nats(images, per="pixel", **options) / np.log(2)
        what = "a pixel, all channels" if trained.first_stage is None else "a code"
        draw_maps(maps, images, bits, names, total, white, _unit(trained), what)
    if grid is not None:
        draw_sorted(grid, images, names, total, white, _unit(trained))
    yield _text(trained, names, total, stages, form)
    if sources is not None:
        of_each = dict(zip(map(str, pictures), levels, strict=True))
        table = compare_sources(trained, of_each, total, _unit(trained), sources, options)
        yield from ["", table] if form == "table" else []


def _check_outputs(outputs: Mapping[str, Path | None], read: Sequence[Path]) -> None:
    """Raise InputError unless all outputs that are asked for can be written, each to a file of its own."""
    taken: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        if path.suffix.lower() != ".png":
            raise InputError(f"{option}: expected a file ending in .png, got {path}")
        check_output(option, path, read)
        if (other := taken.setdefault(path.resolve(), option)) != option:
            raise InputError(f"{option}: expected another file than that of {other}, got {path}")


def _unit(model: ChainModel) -> str:
    unit = "bits/dim" if model.first_stage is None else "bits/code"
    if model.views:
        return f"{unit} (mixture of {len(model.views)} orders)"
    return f"{unit} (upper bound)" if model.is_bound else unit


def _text(model: ChainModel, names: list[str], total: Any, stages: dict[str, Any], form: str) -> str:
    header = ["picture", _unit(model)]
    several = stages if len(stages) > 1 else {}
    figures = np.stack([total, *several.values()], axis=1)
    rows = [[name, *map(float, row)] for name, row in zip(names, figures, strict=True)]
    header += several
    if form == "json":
        return json.dumps([dict(zip(header, row, strict=True)) for row in rows], indent=2)
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        return text.getvalue().rstrip("\n")
    mean = ["mean", *figures.mean(0)]
    return tabulate([*rows, *([mean] if len(rows) > 1 else [])], header, floatfmt=".4f")
