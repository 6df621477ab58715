"""Models' codecs beside others on the same pictures: `python -m benchmarks.codecs PICTURES [MODEL...]`.

PICTURES is an array uint8 [N, H, W, C] of levels (.npy), a file of slices (.h5), of which the test images are taken in
their order, or, beside a model that says how levels are shown, a folder. Every picture as a file of its own and, if
they are of one size, all in one: an archive of a model, and one mosaic of all pictures for the others. Every file is
decoded and compared, but with `--decode N` only N of the single files, because a model decodes them slowly. JPEG XL is
measured where `cjxl` and `djxl` are found (Debian: libjxl-tools).
"""

import argparse
import io
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from tabulate import tabulate

import spn
from spn.api import ChainModel
from spn.data.hdf5 import SliceFile
from spn.image import join_slices
from spn.report.pictures import brightness
from spn.tools.lossless import SUFFIXES, read_lossless

Pixels = UInt8[np.ndarray, "_ _ channel"]


class Codec(NamedTuple):
    """Encodes and decodes a picture."""

    encode: Callable[[Pixels], bytes]
    decode: Callable[[bytes], Pixels]


class Cost(NamedTuple):
    """What pictures cost."""

    num_bytes: int
    """Of all of them."""
    encoding: float
    """Seconds a picture."""
    decoding: float


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codecs", description=__doc__)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--limit", type=int, help="take the first so many pictures")
    parser.add_argument("--decode", type=int, help="decode only the first so many single files")
    options = parser.parse_intermixed_args(arguments)
    for name in ("limit", "decode"):
        if (count := getattr(options, name)) is not None and count < 1:
            parser.error(f"--{name}: expected at least 1, got {count}")
    torch.set_num_threads(1)
    models = [spn.load(path) for path in options.models]
    if options.pictures.is_dir() and not models:
        parser.error(f"MODEL: expected one beside the folder {options.pictures}, got none")
    if options.pictures.suffix == ".h5":
        bits, given = SliceFile(options.pictures).bits, {model.params.data.bits for model in models}
        if (given or {8}) != {bits}:  # a model says what is white among fewer bits
            parser.error(f"MODEL: expected models of {bits} bits for {options.pictures}, got {sorted(given) or 'none'}")
    print(table(_levels(options.pictures, models)[: options.limit], models, options.decode))


def table(levels: Sequence[Pixels], models: Sequence[ChainModel] = (), num_decoded: int | None = None) -> str:
    """Return a Markdown table of bits per sub-pixel and milliseconds a picture.

    `num_decoded` of the single files are decoded and compared, by default all. The other codecs get levels of fewer
    bits spread to 8, by the bits of the models, which are all alike.
    """
    white = {model.params.data.white_level for model in models} or {255}
    if len(white) > 1:
        raise ValueError(f"expected models of the same levels, got white at {sorted(white)}")
    shown = [brightness(each, max(white)) for each in levels]
    num_dims = sum(each.size for each in levels)
    are_alike = len({each.shape for each in shown}) == 1
    rows = []
    for name, codec in _codecs().items():
        single = _cost(codec, shown, num_decoded)
        rows.append(_row(name, single, _mosaic_cost(codec, shown) if are_alike else None, num_dims, 0))
    for model in models:
        single, together = _cost(_ours(model), levels, num_decoded), _archive(model, levels) if are_alike else None
        rows.append(_row(f"spn, {model.chain}", single, together, num_dims, model.path.stat().st_size))
    header = ("", "single files", "all in one", "with the weights", "encode, ms", "decode, ms", "decode, all in one")
    return tabulate(rows, header, "github", disable_numparse=True, colalign=("left", *["right"] * 6))


def _levels(place: Path, models: Sequence[ChainModel]) -> list[Pixels]:
    if place.suffix == ".npy":
        return list(np.load(place, allow_pickle=False))
    if place.suffix == ".h5":
        file = SliceFile(place)
        return list(join_slices(file.slices("test", torch.arange(file.num_images("test")))).numpy())
    paths = sorted(each for each in place.iterdir() if each.suffix.lower() in SUFFIXES)
    return [read_lossless(path, models[0].params.data).levels.numpy() for path in paths]


def _codecs() -> dict[str, Codec]:
    codecs = {"PNG": _pillow("PNG", optimize=True), "WebP": _pillow("WEBP", lossless=True, quality=100, method=6)}
    if shutil.which("cjxl") and shutil.which("djxl"):
        codecs["JPEG XL -e 9"] = Codec(_encode_jxl, _decode_jxl)
    else:
        print("no cjxl and djxl found: no row of JPEG XL", file=sys.stderr)
    return codecs


def _pillow(form: str, **options: object) -> Codec:
    def encode(pixels: Pixels) -> bytes:
        content = io.BytesIO()
        _picture(pixels).save(content, form, **options)
        return content.getvalue()

    def decode(content: bytes) -> Pixels:
        with Image.open(io.BytesIO(content)) as picture:
            return np.atleast_3d(np.array(picture))

    return Codec(encode, decode)


def _encode_jxl(pixels: Pixels) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        _picture(pixels).save(f"{folder}/in.png")
        _run("cjxl", f"{folder}/in.png", f"{folder}/out.jxl", "-d", "0", "-e", "9", "--num_threads=0")
        return Path(folder, "out.jxl").read_bytes()


def _decode_jxl(content: bytes) -> Pixels:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "in.jxl").write_bytes(content)
        _run("djxl", f"{folder}/in.jxl", f"{folder}/out.png", "--num_threads=0")
        with Image.open(f"{folder}/out.png") as picture:
            return np.atleast_3d(np.array(picture))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _ours(model: ChainModel) -> Codec:
    return Codec(lambda levels: model.encode([levels]).content, lambda content: model.decode(content)[0])


def _archive(model: ChainModel, levels: Sequence[Pixels]) -> Cost:
    start = time.perf_counter()
    content = model.encode(levels).content
    middle = time.perf_counter()
    found = model.decode(content)
    end = time.perf_counter()
    assert all(np.array_equal(one, other) for one, other in zip(found, levels, strict=True))
    return Cost(len(content), (middle - start) / len(levels), (end - middle) / len(levels))


def _mosaic_cost(codec: Codec, pictures: Sequence[Pixels]) -> Cost:
    num_bytes, encoding, decoding = _cost(codec, [_mosaic(pictures)], None)
    return Cost(num_bytes, encoding / len(pictures), decoding / len(pictures))


def _cost(codec: Codec, pictures: Sequence[Pixels], num_decoded: int | None) -> Cost:
    start = time.perf_counter()
    contents = [codec.encode(each) for each in pictures]
    middle = time.perf_counter()
    found = [codec.decode(content) for content in contents[:num_decoded]]
    end = time.perf_counter()
    for one, other in zip(found, pictures, strict=False):
        assert np.array_equal(one[..., : other.shape[-1]], other), "a codec that is not lossless"
    return Cost(sum(map(len, contents)), (middle - start) / len(contents), (end - middle) / len(found))


def _mosaic(pictures: Sequence[Pixels]) -> Pixels:
    """Lay pictures out in rows, and fill the last one up with black."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = -(-len(pictures) // columns)
    height, width, channels = pictures[0].shape
    every = np.zeros((rows * columns, height, width, channels), dtype=np.uint8)
    every[: len(pictures)] = pictures
    grid = every.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)


def _row(name: str, single: Cost, together: Cost | None, num_dims: int, weights: int) -> list[str]:
    def bits(num_bytes: int) -> str:
        return f"{8 * num_bytes / num_dims:.3f}"

    def milliseconds(seconds: float) -> str:
        return f"{1000 * seconds:,.1f}"

    return [
        name,
        bits(single.num_bytes),
        bits(together.num_bytes) if together else "",
        bits(together.num_bytes + weights) if together else "",
        milliseconds(single.encoding),
        milliseconds(single.decoding),
        milliseconds(together.decoding) if together else "",
    ]


def _picture(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


if __name__ == "__main__":
    main()
