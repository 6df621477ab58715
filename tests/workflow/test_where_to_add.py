"""A toy of each that ARCHITECTURE.md says where to add, added by exactly those steps to a copy of the package."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from experiment import tiny_params, write_params

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

FAMILY_SECTION = '''
class ToySection(SliceEmbedderSection):
    """A weighted sum of all pixels before."""

    family: Literal["toy"]
    width: Count

    def problem(self, height: int, width: int, channels: int) -> str | None:
        """Say what does not fit together."""
        return None


'''

FAMILY = '''
"""A toy: sums of the pixels before."""

import torch
from torch import nn

from spn.config.model import ToySection
from spn.laws import build_head
from spn.layers import Scale, raster_shift
from spn.models.interface import Model, build_embedder, embed


class Toy(Model):
    """Sums."""

    def __init__(self, section, shape):
        super().__init__()
        self.shape, self.scale = shape, Scale(shape.num_levels, shape.high_levels)
        self.embedder = build_embedder(section, shape, section.width)
        self.sums = nn.Linear(shape.channels + 1, section.width)
        self.head = build_head(section.law, section.width, shape.channels, self.scale, section.mixtures)

    def embed_target(self, levels):
        """Scale levels."""
        return self.scale.embed(levels, self.sums.weight.dtype)[..., None]

    def embed_context(self, context):
        """Run the slice embedder."""
        return embed(self.embedder, context)

    def laws(self, embedded, embedded_context, context):
        """Sum the pixels before, and the context."""
        values = embedded[..., 0]
        before = raster_shift(torch.cat((values, torch.ones_like(values[..., :1])), dim=-1))
        sums = self.sums(before.flatten(1, 2).cumsum(1).view_as(before))
        sums = sums if embedded_context is None else sums + embedded_context
        return self.head(torch.tanh(sums), values, context.high)


def build(section: ToySection, shape):
    """Build the toy."""
    return Toy(section, shape)
'''

LAW = '''
"""A softmax of a parabola over the levels."""

import torch

from spn.layers import Scale
from spn.likelihood import Categorical, OutputLaw


class ParabolaOutputLaw(OutputLaw):
    """Its slope and its bend."""

    num_outputs = 2

    def __init__(self, num_levels):
        self.num_levels = num_levels

    def __call__(self, outputs, high):
        """Make the laws."""
        levels = torch.linspace(-1, 1, self.num_levels, device=outputs.device, dtype=outputs.dtype)
        return Categorical(outputs[..., :1] * levels + outputs[..., 1:] * levels**2)


def output_law(scale: Scale, num_mixtures: int) -> OutputLaw:
    """Return the output law."""
    return ParabolaOutputLaw(scale.num_levels)
'''

SOURCE_SECTION = '''
class StripesData(SourceSection):
    """Made-up stripes."""

    num_classes: ClassVar[int] = 0
    class_names: ClassVar[tuple[str, ...]] = ()
    source: Literal["stripes"]
    size: Count
    validation: Count
    test: Count

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.size, self.size, 1


'''

SOURCE = '''
"""Stripes, of any slope."""

import hashlib

import numpy as np

from spn.data.sources.source import Pool, Source, draw_parts


class Stripes(Pool):
    """A hundred slopes."""

    def __init__(self, size):
        self.size = size

    @property
    def labelled(self):
        """Never."""
        return False

    def __len__(self):
        return 100

    def stream(self, indices):
        """Make the images at `indices`."""
        rows, columns = np.indices((self.size, self.size))
        for index in indices:
            yield ((rows * int(index) // 10 + columns) % 5 * 51).astype(np.uint8)[..., None], None


def open_stripes(section, root, resources) -> Source:
    """Make them."""
    wanted = {"validation": section.validation, "test": section.test}
    parts = draw_parts(section, {"train": Stripes(section.size)}, wanted, "stripes")
    digest = hashlib.sha256(b"stripes").hexdigest()
    return Source(release="stripes", digest=digest, parts=parts, drop_bits=8 - section.bits)
'''


VERBS = """
import json, sys
from pathlib import Path
import spn
from spn.cli import main

assert Path(spn.__file__).is_relative_to(Path.cwd()), "the toys are in the copy"
for command in json.loads(sys.argv[1]):
    assert main(command) == 0, command
"""


@dataclass(frozen=True)
class Project:
    """A folder with a copy of the package."""

    folder: Path

    def insert(self, path: str, before: str, text: str) -> None:
        """Insert into a module, before a text that is there once."""
        file = self.folder / "spn" / path
        content = file.read_text()
        assert content.count(before) == 1, path
        file.write_text(content.replace(before, text.lstrip("\n") + before))

    def create(self, path: str, text: str) -> None:
        """Write a new module."""
        file = self.folder / "spn" / path
        assert not file.exists()
        file.write_text(text.lstrip("\n"))

    def run(self, commands: list[list[str]]) -> None:
        """Run verbs of `spn`, all of which must succeed, in one process."""
        environment = os.environ | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        program = (sys.executable, "-c", VERBS, json.dumps(commands))
        done = subprocess.run(program, cwd=self.folder, env=environment, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr

    def make(self, stages: tuple[str, ...], scale_factor: str) -> None:
        """Preprocess, train, evaluate and sample a chain of its own name, and check its stages."""
        data = f"S{scale_factor}.h5"
        commands = [["preprocess", "--scale-factor", scale_factor, "--output", data]]
        given: list[str] = []
        for stage in stages:
            weights = ["--data", data, "--checkpoint", f"{stage}/checkpoint.safetensors"]
            commands += [
                ["train", stage, "--data", data, "--output", stage],
                ["evaluate", stage, *weights, "--output", stage],
                ["sample_stage", "toys", stage, *weights, *given, "--output", f"{stage}/samples"],
            ]
            given = ["--given", f"{stage}/samples/samples.h5"]
        self.run([*commands, ["check", *stages]])
        for stage in stages:
            assert json.loads((self.folder / stage / "metrics.json").read_text())["bits_per_dim"] > 0


@pytest.fixture
def project(tmp_path: Path) -> Project:
    shutil.copytree(ROOT / "spn", tmp_path / "spn", ignore=shutil.ignore_patterns("__pycache__"))
    return Project(tmp_path)


def write_chain(project: Project, stages: tuple[str, ...], **changes: object) -> None:
    """Write a params.yaml of the tiny experiment, with one chain of these stages, whose models are changed."""
    params = tiny_params()
    params["stages"] = {stage: params["stages"][stage] for stage in stages}
    for stage in params["stages"].values():
        stage["model"] = {**stage["model"], **changes} if "family" not in changes else {**changes}
    params["chains"] = {"toys": {"stages": list(stages)}}
    write_params(project.folder, params)


def test_a_family_is_a_file_and_its_section(project: Project) -> None:
    project.insert("config/model.py", "if TYPE_CHECKING:\n    ModelSection", FAMILY_SECTION)
    project.create("models/toy.py", FAMILY)
    write_chain(project, ("high", "low"), family="toy", width=6, law="mixture", mixtures=2)
    project.make(("high", "low"), "2")


def test_a_law_is_a_file_and_a_name(project: Project) -> None:
    project.insert("config/model.py", '"dequantised"]', '"parabola", ')
    project.create("laws/parabola.py", LAW)
    for family in ({}, {"family": "pixelcnn_pp", "filters": 6, "resnets": 1, "downsampling": False}):
        write_chain(project, ("raster",), law="parabola", **family)
        shutil.rmtree(project.folder / "runs", ignore_errors=True)
        project.make(("raster",), "1")


def test_a_source_is_a_file_and_its_section(project: Project) -> None:
    project.insert("config/data.py", "if TYPE_CHECKING:\n    DataSection", SOURCE_SECTION)
    project.create("data/sources/stripes.py", SOURCE)
    params = tiny_params()
    params["data"] = {"source": "stripes", "name": "made", "bits": 5, "size": 8, "validation": 10, "test": 10}
    params["stages"] = {"raster": params["stages"]["raster"]}
    params["chains"] = {"toys": {"stages": ["raster"]}}
    write_params(project.folder, params)
    project.make(("raster",), "1")
