"""Describes a model or a file of coded pictures in the terminal."""

from collections.abc import Iterator
from pathlib import Path

from spn.api import load
from spn.api.card import describe
from spn.codec.container import MAGIC, unpack
from spn.config import InputError
from spn.files import printable
from spn.tools.decode import read_coded

MOST_PICTURES = 20
"""Pictures up to this number are listed."""


def info(model: Path, *, chain: str | None = None) -> Iterator[str]:
    """Yield the lines of a model card for the terminal, or what the header of coded pictures says."""
    if model.is_file() and _starts_with(model, MAGIC):
        yield from _describe_coded(model)
    elif not model.exists():
        raise InputError(f"{model}: expected a model or a file of coded pictures, found none")
    else:
        yield describe(load(model, chain))


def _starts_with(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark)) == mark


def _describe_coded(path: Path) -> Iterator[str]:
    content = read_coded(path)
    try:
        header, chunks = unpack(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    num_dims = sum(height * width for height, width in header.sizes) * header.channels
    tile = "each as a whole" if header.tile == (0, 0) else f"in tiles of {header.tile[0]}x{header.tile[1]}"
    colours = "RGB" if header.channels == 3 else "grey"
    rate = f"{8 * len(content) / num_dims:.4f} bits/dim without the model's weights"
    yield f"coded pictures   {len(header.sizes):,}, {tile}; {colours}, {header.bits} bits"
    yield f"size             {len(content):,} bytes, {rate}"
    yield f"streams          {len(chunks):,} of up to {header.images_per_stream} images"
    yield f"model            digest {header.model.hex()}, trainings {header.recipes.hex()}"
    yield f"made by          spn {header.version}"
    names = header.names or [str(number) for number in range(len(header.sizes))]
    for number, (name, (height, width)) in enumerate(zip(names, header.sizes, strict=False)):
        if number == MOST_PICTURES:
            yield f"  and {len(names) - number:,} more"
            break
        yield f"  {printable(name)}: {width}x{height}{', grey' * (number in header.greys)}"
