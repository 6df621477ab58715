"""Compares pictures of several sources, and pictures made of the first: what a likelihood tells of them, and what not.

A likelihood tells how many bits a lossless code needs. Flat pictures need few and noise needs many, whatever a model
was trained on, so a foreign picture may well be likelier than one of the model's own (Nalisnick et al. 2019, "Do deep
generative models know what they don't know?").
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from spn.api import ChainModel
from spn.api.arguments import ScoreOptions
from spn.api.arrays import Images
from spn.report.bits import draw_sources

SEED = 1
"""Seeds the noise."""


MADE = ("mirrored", "shifted by a pixel", "negative", "pixels shuffled", "constant", "noise")
"""Names of the sources that are made of the first one."""


def compare_sources(
    model: ChainModel, read: Mapping[str, Images], total: Any, unit: str, output: Path, options: ScoreOptions
) -> str:
    """Draw the bits of every source to `output`, beside those of sources made of the first; return a table of them.

    `read` has the pictures of each source, of which the first is the model's own, and `total` the bits of all of them.
    """
    white = model.params.data.white_level
    made = made_of(next(iter(read.values())), white)
    every = {name: levels.numpy() for name, levels in (*read.items(), *made.items())}
    ends = np.cumsum([len(levels) for levels in read.values()])
    bits = dict(zip(read, np.split(total, ends[:-1]), strict=True))
    bits |= {name: model.bits_per_dim(every[name], **options) for name in made}
    draw_sources(output, every, bits, white, unit)
    return tabulate_sources(bits, unit)


def made_of(own: Images, white_level: int) -> dict[str, Images]:
    """Make pictures that are foreign in a known way, as many as `own` has, but at most one constant of each level."""
    draws = np.random.default_rng(SEED)
    noise = draws.integers(0, white_level + 1, own.shape, dtype=np.uint8)
    greys = np.linspace(0, white_level, min(len(own), white_level + 1)).round().astype(np.uint8)
    places = torch.from_numpy(draws.permutation(own.shape[1] * own.shape[2]))
    made = (
        own.flip(2),
        torch.cat([own[:, :, :1], own[:, :, :-1]], dim=2),
        white_level - own.clamp(max=white_level),  # because a model may sample levels above white
        own.flatten(1, 2)[:, places].view(own.shape),
        torch.from_numpy(greys)[:, None, None, None].expand(-1, *own.shape[1:]).clone(),
        torch.from_numpy(noise),
    )
    return dict(zip(MADE, made, strict=True))


def tabulate_sources(bits: Mapping[str, Any], unit: str) -> str:
    """Tabulate the bits of every source, and how often a picture of it is likelier than one of the first source."""
    own = next(iter(bits.values()))
    rows = []
    for name, each in bits.items():
        likelier = (each[:, None] < own).mean() + (each[:, None] == own).mean() / 2
        rows.append([name, len(each), each.mean(), each.std(), 100 * likelier])
    header = ["source", "pictures", unit, "standard deviation", f"likelier than {next(iter(bits))} (%)"]
    return tabulate(rows, header, floatfmt=("", "", ".4f", ".4f", ".0f"))
