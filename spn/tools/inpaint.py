"""Fills in hidden pixels of pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from tabulate import tabulate

from spn.api import ChainModel
from spn.api.completion import Likeliest, check_exact
from spn.api.pictures import read_mask
from spn.config import InputError
from spn.evaluation.inpainting import HALVES, Mask, hidden_half
from spn.likelihood import bits_per_dim
from spn.tools.drawing import Options, open_model, write_draws
from spn.tools.reading import read_levels


def inpaint(
    model: Path,
    pictures: Sequence[Path],
    output: Path = Path("inpainted.png"),
    *,
    mask: str,
    pick: str | None = None,
    repeats: int = 1,
    fit: bool = False,
    **options: Unpack[Options],
) -> list[str]:
    """Draw the hidden pixels of pictures, and write all draws to `output`; return the lines to print.

    `mask` is the half to hide (upper, lower, left, right) or a file, whose pixels that are not black are hidden.
    `pick` "likelihood" keeps the likeliest draw of each picture alone, and lists their exact log-likelihoods. `output`
    is as in `spn sample`; a grid has each picture, with hidden pixels grey, and its draws in a row. Raises InputError
    for pictures of another size, mode or depth.
    """
    if pick not in (None, "likelihood"):
        raise InputError(f"--pick: expected likelihood, got {pick}")
    trained, how = open_model(model, [*pictures, Path(mask)], output, options)
    if pick is not None:
        check_exact(trained)
    if repeats > 1 and not any(plan.noise for plan in trained.params.plans[trained.chain]):
        raise InputError(f"--repeats: expected 1, because {trained.chain} has no scales of a diffusion, got {repeats}")
    hidden, data = _mask(mask, trained), trained.params.data
    names, levels = read_levels(pictures, data, fit=fit, lossless=True)
    masked = torch.where(hidden[..., None], data.white_level // 2, levels).to(torch.uint8)
    drawn = trained.inpaint(levels, hidden, repeats=repeats, **how)
    if pick is None:
        write_draws(trained, output, drawn, masked, how["label"])
        return []
    scoring = {key: value for key, value in how.items() if key in ("label", "exact", "batch_size")}
    found = trained.likeliest(drawn, **scoring)
    write_draws(trained, output, found.images[None], masked, how["label"])
    return [_table(trained, names, found)]


def _mask(text: str, model: ChainModel) -> Mask:
    height, width, _ = model.shape
    if text in HALVES:
        return hidden_half(text, height, width)
    if not Path(text).exists():
        raise InputError(f"--mask: expected one of {', '.join(HALVES)}, or a picture, got {text}, which is no file")
    return read_mask(Path(text), height, width)


def _table(model: ChainModel, names: Sequence[str], found: Likeliest) -> str:
    """List the log-likelihood of the likeliest draw of every picture, and the range of all draws."""
    rows: list[list[Any]] = []
    for number, (name, chosen) in enumerate(zip(names, found.chosen.tolist(), strict=True)):
        nats = found.nats[:, number]
        bits = float(bits_per_dim(nats[chosen], model.num_dims))
        rows.append([name, f"{chosen + 1} of {len(nats)}", -float(nats[chosen]), bits, -float(nats.max())])
    header = ["picture", "likeliest draw", "log-likelihood (nats)", "bits/dim", "least likely draw (nats)"]
    return tabulate(rows, header, floatfmt=("", "", ".3f", ".4f", ".3f"))
