"""The verbs for people, which need no params.yaml: they take a model, or write an experiment."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from spn.cli.values import count, path

Verb: TypeAlias = Callable[[str], argparse.ArgumentParser]
Add: TypeAlias = Callable[[argparse.ArgumentParser], None]

FIT = (
    "take the centre square of pictures of at least the model's size, resized, and reduce colours, transparency and "
    "levels to what the model has"
)
TOOLS = ("init", "sample", "upscale", "deepen", "inpaint", "score", "encode", "decode", "info", "card")


def add_model_verbs(verb: Verb, label: Callable[..., None], machine: Add) -> None:
    """Add the verbs; the arguments are what the parser of the other verbs is made of."""
    init = verb("init")
    init.add_argument("name", metavar="NAME", help="of the experiment, its folder and its data: letters, digits and _")
    init.add_argument("--pictures", type=path, required=True, metavar="FOLDER", help="folder or zip of pictures")
    init.add_argument("--size", type=count, default=32, help="height and width of the images; default: 32")
    init.add_argument("--minutes", type=float, default=30.0, help="time of training for each chain; default: 30")
    machine(init)

    sample = _with_model(verb("sample"))
    sample.add_argument("-n", "--num-images", type=count, default=16)
    _seeded(sample, "image i depends on it and on i alone")
    label(sample, "by default image i is of class i mod the number of classes")
    sample.add_argument("--strip", action="store_true", help="a row for each image, with a column after each stage")
    sample.add_argument(
        "-o", "--output", type=path, required=True, help="grid .png, array .npy, .h5, or a folder for PNG pictures"
    )
    _computing(sample, machine)

    for name, made in (("upscale", "upscaled"), ("deepen", "deepened"), ("inpaint", "inpainted")):
        drawing = _with_model(verb(name))
        _drawing(drawing, made, has_samples=name != "inpaint")
        label(drawing, "which a class-conditional chain needs for pictures")
        _computing(drawing, machine)

    score = _with_model(verb("score"))
    score.add_argument(
        "pictures", type=path, nargs="+", metavar="PICTURES", help="files, folders of pictures, or .npy arrays"
    )
    score.add_argument("--format", dest="form", default="table", help="table, csv or json; default: table")
    score.add_argument(
        "--map", dest="maps", type=path, help="PNG to write: the bits of every pixel beside each picture"
    )
    score.add_argument("--grid", type=path, help="PNG to write: the pictures, the likeliest first")
    score.add_argument(
        "--sources",
        type=path,
        help="PNG to write: the bits of each of PICTURES as a source, beside noise, constants and others made of it",
    )
    score.add_argument("--fit", action="store_true", help=FIT)
    label(score, "which a class-conditional chain needs")
    _computing(score, machine, "slices")

    _add_coding_verbs(verb, label)

    _with_model(verb("info"), "or a file of coded pictures")

    card = _with_model(verb("card"))
    card.add_argument("-o", "--output", type=path, help="README.md, or a folder for card, model and config.json")


def _add_coding_verbs(verb: Verb, label: Callable[..., None]) -> None:
    encode = _with_model(verb("encode"))
    encode.add_argument(
        "pictures",
        type=path,
        nargs="+",
        metavar="PICTURES",
        help="PNG, BMP, TIFF or PPM files, or folders of them, without the folders inside",
    )
    encode.add_argument("-o", "--output", type=path, required=True, help="file to write")
    encode.add_argument(
        "--tiles",
        dest="in_tiles",
        action="store_true",
        help="code tiles of the size of the model's images even if its networks take pictures of any size: larger, "
        "but decoded much faster",
    )
    label(encode, "of all pictures, which a class-conditional chain needs")

    decode = _with_model(verb("decode"))
    decode.add_argument("file", type=path, metavar="FILE", help="file that `spn encode` wrote")
    decode.add_argument("-o", "--output", type=path, required=True, help="folder for PNG pictures")
    for parser in (encode, decode):
        parser.add_argument("--batch-size", type=count, help="images at a time; changes nothing else")
        parser.add_argument("--threads", type=count, default=1, help="threads of the CPU; changes nothing else")


def _with_model(parser: argparse.ArgumentParser, other: str = "") -> argparse.ArgumentParser:
    kinds = "model.safetensors, a folder with it, or a folder of results"
    parser.add_argument("model", type=path, metavar="MODEL", help=", ".join(filter(None, (kinds, other))))
    parser.add_argument("--chain", help="the chain to take from a folder of results")
    return parser


def _seeded(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--seed", type=int, default=1, help=f"{what}; default: 1")
    parser.add_argument(
        "--temperature",
        nargs="+",
        default=(),
        metavar="[STAGE=]NUMBER",
        help="of all stages, or of those named; default: the chain's own",
    )


def _drawing(parser: argparse.ArgumentParser, made: str, has_samples: bool) -> None:
    """Add what the verbs share that draw the rest of a picture; `made` names the file that they write."""
    pictures = parser.add_argument(
        "pictures", type=path, nargs="+", metavar="PICTURES", help="files, folders of pictures, or .npy arrays"
    )
    if has_samples:
        # Not by nargs="*", which would take no pictures where an option comes before them.
        pictures.required, pictures.default = False, ()
        parser.add_argument("--samples", type=count, help="instead of pictures, so many samples of the first stages")
    else:
        parser.add_argument(
            "--mask",
            required=True,
            help="picture, of which pixels that are not black are hidden; or upper, lower, left, right",
        )
        parser.add_argument("--pick", metavar="likelihood", help="keep the likeliest draw of each picture")
        parser.add_argument("--repeats", type=count, default=1, help="draws of each scale of a diffusion; default: 1")
    parser.add_argument("--draws", type=count, default=4, help="draws for each picture; default: 4")
    _seeded(parser, "draws depend on it, on the number and order of the pictures, and not on batches")
    parser.add_argument("--fit", action="store_true", help=FIT)
    parser.add_argument(
        "-o",
        "--output",
        type=path,
        default=Path(f"{made}.png"),
        help="grid .png with a row for each picture; or array .npy, .h5, or a folder for PNG pictures, with the draws "
        f"of each picture one after another; default: {made}.png",
    )


def _computing(parser: argparse.ArgumentParser, machine: Add, at_a_time: str = "images") -> None:
    drawn = "; but bounds draw noise for each batch" if at_a_time == "slices" else ""
    parser.add_argument(
        "--exact", action="store_true", help=f"compute in float64, so that batch sizes cannot matter{drawn}"
    )
    parser.add_argument("--batch-size", type=count, help=f"{at_a_time} at a time")
    machine(parser)
