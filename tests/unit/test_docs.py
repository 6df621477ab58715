"""The commands in README and docs: all of them exist, and those for a trained chain run as they stand."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from model_files import rgb_params, write_model
from pages import ROOT, blocks, commands
from PIL import Image

from spn.cli.main import _parser
from spn.cli.texts import HELP

FILES = [ROOT / "Snakefile", *sorted((ROOT / "workflow/rules").glob("*.smk"))]
RULES = {name for each in FILES for name in re.findall(r"^(?:use rule \w+ as|rule) (\w+)", each.read_text(), re.M)}
TESTED = "".join(each.read_text() for each in ROOT.glob("tests/workflow/test_dvc*.py"))


def test_there_are_commands_on_every_page_for_a_day_of_a_user() -> None:
    days = {"README.md", "own-pictures.md", "changing.md", "cluster.md", "using-a-model.md", "dvc.md"}
    assert days <= {page for page, _ in commands()}


@pytest.mark.parametrize(("page", "command"), sorted(set(commands())))
def test_commands_are_ones_that_there_are(page: str, command: str) -> None:
    tool, *words = shlex.split(command.split(" > ")[0].replace("$MODEL", "model.safetensors"))
    match tool:
        case "spn" if "..." not in words:
            _parser().parse_args(words)
        case "spn":
            assert words[0] in HELP
        case "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
            assert {word for word in words if "=" not in word} <= {*targets}
        case "snakemake":
            last = [word for word in words if re.fullmatch(r"[a-z_]+", word)][-1:]
            assert not last or last[0] in {*RULES, "all"}
            named = words[words.index("--profile") + 1] if "--profile" in words else "."
            assert (ROOT / named).exists()
        case "dvc":
            verb = [word for word in words[:2] if re.fullmatch(r"[a-z]+", word)]
            assert re.search(rf"\b{' '.join(verb)}\b|{verb[0]}\W+{verb[-1]}\b", TESTED), f"{command}: in no test of DVC"


@pytest.mark.slow
def test_the_page_of_using_a_model_runs_as_it_stands(tmp_path: Path) -> None:
    page = ROOT / "docs/using-a-model.md"
    raw = rgb_params()
    stages = {"first_high": "first", "rest_high": "rest"}
    raw["stages"] |= {name: raw["stages"]["high"] | {"slices": slices} for name, slices in stages.items()}
    raw["chains"] = {"multidimensional": {"stages": [*stages, "low"]}}
    write_model(tmp_path, raw, "multidimensional")
    Image.new("RGB", (4, 4), (17, 34, 51)).save(tmp_path / "small.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    (script,) = (block for block in blocks(page) if "spn info" in block)
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment, check=True)
    drawn = ("larger.png", "upscaled.png", "deepened.png", "filled/0005.png", "inpainted.png", "sources.png")
    for name in (
        "grid.png",
        "strip.png",
        "scores.csv",
        "bits.png",
        "sorted.png",
        "card.md",
        "hub/config.json",
        *drawn,
    ):
        assert (tmp_path / name).stat().st_size > 0, name
    assert len(list((tmp_path / "pictures").iterdir())) == 64
    code = next(blocks(page, "python"))
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
