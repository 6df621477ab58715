"""Files of every kind, damaged one after the other, and read by the verb that reads them; run by test_damage.

A program of its own, so that a library that hangs or crashes on a damaged file takes no other test with it. It prints a
line of JSON when it begins a damage, and another with what came of it.
"""

import contextlib
import gzip
import io
import json
import pickle
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from experiment import raster_params, tiny_params, write_params
from PIL import Image

from spn.cli import main
from spn.config import load_params
from spn.data.hdf5 import SliceFile
from spn.training import train_stage

KINDS = ("truncation", "zeroes", "flipped bit")
REGIONS = {"header": (0.0, 0.15), "middle": (0.15, 0.85), "tail": (0.85, 1.0)}
"""Where a damage begins, in shares of the file's length, or of the part of it that is damaged."""

Read = Callable[[], dict[str, bytes]]
Span = tuple[int, int]


class RefusedError(Exception):
    """A verb ended with status 2; its last line."""


@dataclass(frozen=True)
class Target:
    """Files that a verb reads: it gives what it made of them. `span` narrows the damage to a part of the file."""

    name: str
    files: list[Path]
    read: Read
    span: Callable[[bytes], Span] = lambda content: (0, len(content))

    def matches(self, message: str) -> bool:
        """Tell whether a message is one line that names a file, or the folder that is the source."""
        names = {str(file) for file in self.files} | {str(file.parent) for file in self.files}
        return message.startswith("spn: error: ") and any(name in message for name in names)


def verb(*arguments: object) -> None:
    """Run a verb of the command line, which must end well or refuse something in one line."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = main([str(argument) for argument in arguments])
    said = [line for line in errors.getvalue().splitlines() if line.startswith("spn: error: ")]
    if status == 2 and len(said) == 1 and errors.getvalue().endswith(f"{said[0]}\n"):
        raise RefusedError(said[0])
    assert status == 0, errors.getvalue()


def png_and_jpg(root: Path, images: np.ndarray) -> list[Path]:
    (root / "set").mkdir()
    paths = [root / "set" / f"{index}.{'jpg' if index % 2 else 'png'}" for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def zipped(root: Path, images: np.ndarray) -> list[Path]:
    with zipfile.ZipFile(root / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for index, image in enumerate(images):
            content = io.BytesIO()
            Image.fromarray(image).save(content, "PNG")
            archive.writestr(f"{index}.png", content.getvalue())
    return [root / "set.zip"]


def npz(root: Path, images: np.ndarray) -> list[Path]:
    (root / "set").mkdir()
    np.savez_compressed(root / "set" / "train.npz", data=images, labels=1 + np.arange(len(images)))
    return [root / "set" / "train.npz"]


def idx_gz(root: Path, images: np.ndarray) -> list[Path]:
    (root / "mnist").mkdir()
    paths = []
    for part in ("train", "t10k"):
        for kind, shape in (("images-idx3", (len(images), 28, 28)), ("labels-idx1", (len(images),))):
            values = np.resize(images // 32, shape).astype(np.uint8)
            paths.append(root / "mnist" / f"{part}-{kind}-ubyte.gz")
            magic = 0x0801 if len(shape) == 1 else 0x0803
            paths[-1].write_bytes(gzip.compress(np.array([magic, *shape], ">u4").tobytes() + values.tobytes(), mtime=0))
    return paths


def tar_gz(root: Path, images: np.ndarray) -> list[Path]:
    path = root / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"):
            batch = {b"data": np.resize(images, (2, 3072)), b"labels": [3, 4]}
            content = pickle.dumps(batch, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return [path]


SOURCES: dict[str, tuple[Callable[[Path, np.ndarray], list[Path]], dict[str, Any]]] = {
    "folder": (png_and_jpg, {"source": "folder", "size": 8, "channels": 3, "fit": "crop", "filter": "box", "test": 2}),
    "zip": (zipped, {"source": "folder", "size": 8, "channels": 3, "fit": "crop", "filter": "box", "test": 2}),
    "npz": (npz, {"source": "arrays", "size": 8, "channels": 3, "release": "made here", "test": 2}),
    "mnist gz": (idx_gz, {"source": "mnist"}),
    "cifar tar": (tar_gz, {"source": "cifar10"}),
}


def source_target(name: str, folder: Path) -> Target:
    """Write a source, and pin it to the digest that preprocess prints."""
    folder.mkdir()
    make, keys = SOURCES[name]
    files = make(folder, np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8))
    params = raster_params({"name": "set", "bits": 8, "validation": 2, **keys})
    output = folder / "out.h5"

    def read() -> dict[str, bytes]:
        output.unlink(missing_ok=True)
        path = write_params(folder, params)
        verb(
            "preprocess",
            "--params",
            path,
            "--scale-factor",
            "1",
            "--sources",
            folder,
            "--runs",
            folder / "runs",
            "--output",
            output,
        )
        # Not the whole file, which also says what bytes the source had: some in an archive are of no picture.
        return {"slices": SliceFile(output).digest.encode()}

    read()
    params["data"]["source_digest"] = SliceFile(output).origin.source_digest
    return Target(name, files, read)


@dataclass(frozen=True)
class Experiment:
    """A chain of two stages in a folder, trained, evaluated and sampled; the folder is laid out like results/."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "S2.h5"

    @property
    def params(self) -> Path:
        return self.folder / "params.yaml"

    def stage(self, name: str) -> Path:
        return self.folder / "stages" / name

    def checkpoint(self, name: str) -> Path:
        return self.stage(name) / "checkpoint.safetensors"

    def samples(self, name: str) -> Path:
        return self.folder / "chains" / "depth" / name

    def make(self, test: int = 4) -> None:
        params = tiny_params()
        params["data"]["limit"] = {"train": 20, "validation": 4, "test": test}
        params["chains"] = {"depth": {"stages": ["high", "low"]}}
        for name in ("high", "low"):
            params["stages"][name]["training"] |= {"steps": 2, "validate_every": 2}
        write_params(self.folder, params)
        verb("preprocess", "--params", self.params, "--scale-factor", "2", "--output", self.data)
        for name in ("high", "low"):
            self.train(name, self.folder / "stages")
            self.evaluate(name)
        self.sample("high")

    def train(self, name: str, output: Path) -> None:
        """What the verb does, less the tracking."""
        with contextlib.redirect_stderr(io.StringIO()):
            data = SliceFile(self.data)
            train_stage(load_params(self.params), name, data, output / name, output / "runs", torch.device("cpu"))

    def evaluate(self, name: str) -> dict[str, bytes]:
        files = ("--data", self.data, "--checkpoint", self.checkpoint(name), "--output", self.stage(name))
        verb("evaluate", name, "--params", self.params, *files)
        return {file: (self.stage(name) / file).read_bytes() for file in ("metrics.json", "nats.npy")}

    def sample(self, name: str, *given: object) -> dict[str, bytes]:
        files = ("--data", self.data, "--checkpoint", self.checkpoint(name), "--output", self.samples(name))
        verb("sample_stage", "depth", name, "--params", self.params, *files, *given)
        return {"samples": (self.samples(name) / "samples.h5").read_bytes()}

    def summarise(self) -> dict[str, bytes]:
        output = self.folder / "chains" / "depth" / "metrics.json"
        verb("summarise", "depth", "--params", self.params, "--results", self.folder, "--output", output)
        return {"metrics": output.read_bytes()}

    def targets(self) -> list[Target]:
        samples = self.samples("high") / "samples.h5"
        low = self.checkpoint("low")

        def read_slices() -> dict[str, bytes]:
            output = self.folder / "again"
            try:
                self.train("low", output)
            except ValueError as error:
                raise RefusedError(f"spn: error: {error}") from error
            finally:
                for path in sorted(output.rglob("*.*")):
                    path.unlink()
            return self.evaluate("low")

        return [
            Target("slices", [self.data], read_slices),
            Target("checkpoint", [low], lambda: self.evaluate("low")),
            Target("notes of the checkpoint", [low], lambda: self.evaluate("low"), notes_span),
            Target("metrics.json", [self.stage("high") / "metrics.json"], self.summarise),
            Target("nats.npy", [self.stage("high") / "nats.npy"], self.summarise),
            Target("samples.h5", [samples], lambda: self.sample("low", "--given", samples)),
        ]


def notes_span(content: bytes) -> Span:
    """Find the header of a safetensors file, which is mostly notes."""
    return 8, 8 + int.from_bytes(content[:8], "little")


def damaged(content: bytes, span: Span, region: str, kind: str, random: Random) -> bytes:
    """Damage a file in a region of the part that may be, so that a byte changes."""
    first, last = (span[0] + round(share * (span[1] - span[0])) for share in REGIONS[region])
    places = range(first, max(first + 1, last))
    if kind == "truncation":
        return content[: random.choice(places)]
    result = bytearray(content)
    if kind == "flipped bit":
        result[random.choice(places)] ^= 1 << random.randrange(8)
        return bytes(result)
    # HDF5 files end in zeroes: there, in what comes last before them.
    start = random.choice([place for place in places if content[place]] or [len(content.rstrip(b"\0")) - 1])
    end = min(start + random.choice([1, 16, 512]), len(content))
    result[start:end] = bytes(end - start)
    return bytes(result)


def outcome(target: Target, reference: dict[str, bytes]) -> str:
    """Read a damaged file: it is to be refused by name, or to give what the whole one gives."""
    try:
        result = target.read()
    except RefusedError as error:
        return "refused" if target.matches(str(error)) else f"refused without a name: {error}"
    return "harmless" if result == reference else "lost"


def run(folder: Path, count: int) -> None:
    random = Random(1)
    targets = [source_target(name, folder / name.replace(" ", "_")) for name in SOURCES]
    (folder / "experiment").mkdir()
    experiment = Experiment(folder / "experiment")
    experiment.make()
    targets += experiment.targets()
    references = {target.name: target.read() for target in targets}
    cases = [(target, region, kind) for target in targets for region in REGIONS for kind in KINDS]
    for number in range(count):
        target, region, kind = cases[number % len(cases)]
        file = random.choice(target.files)
        content = file.read_bytes()
        spoilt = damaged(content, target.span(content), region, kind, random)
        case = {"number": number, "target": target.name, "region": region, "kind": kind}
        print(json.dumps(case), flush=True)
        file.write_bytes(spoilt)
        print(json.dumps(case | {"outcome": outcome(target, references[target.name])}), flush=True)
        file.write_bytes(content)


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), int(sys.argv[2]))
