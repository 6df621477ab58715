"""Cuts photographs into crops: `python -m benchmarks.crops PICTURES OUTPUT --size 32 --reduce 1 2`.

PICTURES is a folder or zip of at least 20 pictures. Every picture is reduced by each factor of `--reduce`, by the
mean of that many pixels across and down, which also removes most of what JPEG left, and cut into crops edge to edge.
Of every 20 pictures the last but one is for validation and the last for test, so that splits share no photograph.
OUTPUT gets train.npy, val.npy and test.npy, for `data.source: arrays`.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from spn.config.data import PICTURE_FORMATS

Crops = UInt8[np.ndarray, "crop size size 3"]
EVERY = 20
LAST = {EVERY - 2: "val", EVERY - 1: "test"}


def pictures(place: Path) -> Iterator[Image.Image]:
    """Yield the pictures of a folder or zip as RGB, by name."""
    if place.is_dir():
        for path in sorted(each for each in place.iterdir() if each.suffix.lower() in PICTURE_FORMATS):
            with Image.open(path) as picture:
                yield picture.convert("RGB")
        return
    with ZipFile(place) as archive:
        for name in sorted(each for each in archive.namelist() if Path(each).suffix.lower() in PICTURE_FORMATS):
            with archive.open(name) as file, Image.open(file) as picture:
                yield picture.convert("RGB")


def crops(picture: Image.Image, size: int, factor: int) -> Crops:
    """Cut a picture, reduced by a factor, into crops; what is left at the right and below is left out."""
    pixels = np.asarray(picture.reduce(factor))
    rows, columns = pixels.shape[0] // size, pixels.shape[1] // size
    grid = pixels[: rows * size, : columns * size].reshape(rows, size, columns, size, 3)
    return grid.swapaxes(1, 2).reshape(-1, size, size, 3)


def main(arguments: list[str] | None = None) -> int:
    """Cut, and print how many crops each split has."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crops", description=__doc__)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--reduce", type=int, nargs="+", default=[1], metavar="FACTOR")
    options = parser.parse_args(arguments)
    splits: dict[str, list[Crops]] = {"train": [], "val": [], "test": []}
    for number, picture in enumerate(pictures(options.pictures)):
        split = splits[LAST.get(number % EVERY, "train")]
        split += [crops(picture, options.size, factor) for factor in options.reduce]
    if not splits["test"]:
        parser.error(f"{options.pictures}: expected at least {EVERY} pictures, got fewer")
    options.output.mkdir(parents=True, exist_ok=True)
    for name, parts in splits.items():
        found = np.concatenate(parts)
        np.save(options.output / f"{name}.npy", found)
        print(f"{name}: {len(found):,} crops of {options.size}x{options.size}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
