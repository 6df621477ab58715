"""Codes pictures without loss in one file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spn.api import load
from spn.api.coding import Coded
from spn.api.folder import find
from spn.api.pictures import find_pictures
from spn.codec.container import MAGIC
from spn.config import InputError
from spn.files import printable, write_bytes
from spn.pipeline.place import choose_device
from spn.tools.lossless import SUFFIXES, read_lossless
from spn.tools.writing import check_output

NAMED = 10
"""At most so many names of what is left out of a folder are printed."""


def encode(
    model: Path,
    pictures: Sequence[Path],
    output: Path,
    *,
    chain: str | None = None,
    in_tiles: bool = False,
    only: int | None = None,
    caption: str | None = None,
    batch_size: int | None = None,
    threads: int = 1,
) -> Iterator[str]:
    """Code pictures in one file, and yield what it costs.

    What a picture has beside its pixels is left out and named, and so is what else lies in a folder of pictures.

    `pictures` are files or folders of PNG, BMP, TIFF or PPM pictures of any size. Raises InputError for a picture that
    the model cannot code without loss (`spn.tools.lossless`), for two of one name, and for a model without an exact
    likelihood.
    """
    choose_device("cpu", threads)
    check_output("--output", output, [find(model, chain), *pictures])
    if output.exists() and not _is_coded(output):
        raise InputError(f"--output: expected a new file, or one of coded pictures, got another kind of file: {output}")
    trained = load(model, chain)
    paths = _find(pictures)
    read = [read_lossless(path, trained.params.data) for path in paths]
    for folder in filter(Path.is_dir, pictures):
        if others := sorted(each.name for each in folder.iterdir() if each not in paths):
            more = f" and {len(others) - NAMED:,} more" if len(others) > NAMED else ""
            left = printable(f"{folder}: left out: {', '.join(others[:NAMED])}")
            yield f"{left}{more} (coded are {', '.join(SUFFIXES)})"
    for path, each in zip(paths, read, strict=True):
        if each.left_out:
            yield printable(f"{path}: left out: {', '.join(each.left_out)}")
    options: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    coded = trained.encode(
        [each.levels for each in read],
        label=only if caption is None else caption,
        names=[path.name for path in paths],
        greys=[number for number, each in enumerate(read) if each.is_grey],
        in_tiles=in_tiles,
        **options,
    )
    write_bytes(output, coded.content)
    yield from cost(coded, len(paths), trained.path.stat().st_size)


def cost(coded: Coded, count: int, model_bytes: int) -> Iterator[str]:
    """Say what coded pictures cost: the file, what the likelihood states, and the difference to the bit."""
    likelihood, bits = coded.nats / np.log(2), 8 * len(coded.content)
    yield (
        f"{count:,} picture{'s' * (count > 1)}, {coded.num_dims:,} sub-pixels: {len(coded.content):,} bytes, "
        f"{coded.bits_per_dim:.4f} bits/dim; with the model's {model_bytes:,} bytes "
        f"{(bits + 8 * model_bytes) / coded.num_dims:,.4f} bits/dim"
    )
    yield (
        f"of its {bits:,} bits the likelihood states {likelihood:,.1f} ({coded.likelihood_bits_per_dim:.4f} bits/dim), "
        f"rounding to whole numbers adds {round(coded.ideal_bits - likelihood, 1) + 0.0:+,.1f} bits, "
        f"header, checksums and ends of {coded.num_streams:,} stream{'s' * (coded.num_streams > 1)} "
        f"{bits - coded.ideal_bits:+,.1f} bits"
    )


def _is_coded(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(MAGIC)) == MAGIC


def _find(places: Sequence[Path]) -> list[Path]:
    """List files, and the pictures in folders; raise InputError for two of one name."""
    found = find_pictures(places, SUFFIXES)
    stems: dict[str, Path] = {}
    for path in found:
        # Decoded pictures are called after these, and end in .png.
        if (other := stems.setdefault(path.stem, path)) is not path:
            raise InputError(f"{path}: expected pictures of different names, got the name of {other}")
    return found
