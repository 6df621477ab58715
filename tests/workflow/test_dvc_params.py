"""The real DVC on params.yaml: `dvc exp run -S` changes one thing, and `dvc params diff` shows it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from params_file import ALIASED, ROOT, TEXT
from workspace import Workspace, fresh

from spn.config import load_params

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("workspace")]

STAGE = """\
stages:
  reproduce:
    cmd: echo reproduced
    params:
      - params.yaml:
"""


@pytest.fixture
def repository(tmp_path: Path) -> Workspace:
    """A repository of params.yaml and a stage that takes no time, recorded and committed."""
    workspace = Workspace(tmp_path / "project")
    workspace.folder.mkdir()
    shutil.copytree(ROOT / ".dvc", workspace.folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "*.local"))
    (workspace.folder / "dvc.yaml").write_text(STAGE)
    (workspace.folder / "params.yaml").write_text(TEXT)
    workspace.run("git", "init", "--quiet")
    workspace.run("dvc", "repro")
    workspace.commit()
    return workspace


def changed_keys(repository: Workspace) -> dict[str, Any]:
    """Return what `dvc params diff` shows: dotted keys, and old and new values."""
    shown = json.loads(repository.run("dvc", "params", "diff", "--json").output).get("params.yaml", {})
    return {key: {when: change[when] for when in ("old", "new")} for key, change in shown.items()}


def steps(repository: Workspace) -> dict[str, int]:
    return {name: stage.training.steps for name, stage in load_params(repository.folder / "params.yaml").stages.items()}


def test_the_shipped_stage_takes_all_of_params_yaml() -> None:
    assert STAGE.split("params:\n")[1].strip() in (ROOT / "dvc.yaml").read_text()


def test_one_key_of_defaults_changes_all_stages_without_a_value_of_their_own(repository: Workspace) -> None:
    before = steps(repository)
    repository.run("dvc", "exp", "run", "-S", "defaults.training.steps=50")
    assert changed_keys(repository) == {"defaults.training.steps": {"old": 900, "new": 50}}
    assert steps(repository) == dict.fromkeys(before, 50) | {"low": 900}
    text = (repository.folder / "params.yaml").read_text()
    assert text == TEXT.replace("steps: 900", "steps: 50", 1)


def test_one_key_of_a_stage_changes_that_stage(repository: Workspace) -> None:
    before = steps(repository)
    repository.run("dvc", "exp", "run", "-S", "stages.low.training.steps=50")
    assert changed_keys(repository) == {"stages.low.training.steps": {"old": 900, "new": 50}}
    assert steps(repository) == before | {"low": 50}
    # A key that the stage leaves to `defaults` is added, which Hydra wants to be told.
    refused = repository.run("dvc", "exp", "run", "-S", "stages.raster.training.steps=60", fails=True)
    assert "To append to your config use +stages.raster.training.steps=60" in refused.output
    repository.run("dvc", "exp", "run", "-S", "+stages.raster.training.steps=60")
    assert steps(repository) == before | {"low": 50, "raster": 60}
    assert changed_keys(repository) == {
        "stages.low.training.steps": {"old": 900, "new": 50},
        "stages.raster.training.steps": {"old": None, "new": 60},
    }
    assert (repository.folder / "params.yaml").read_text().count("#") == TEXT.count("#")


def test_an_old_file_is_what_the_note_says(repository: Workspace) -> None:
    path = repository.folder / "params.yaml"
    path.write_text(ALIASED.replace("training: {<<: *training, steps: 12}", "training: *training"))
    repository.commit()
    repository.run("dvc", "exp", "run", "-S", "stages.low.training.steps=50")
    assert steps(repository) == {"high": 50, "low": 50}


def test_snakemake_says_once_what_dvc_does_to_an_old_file(tmp_path: Path) -> None:
    workspace = fresh(tmp_path / "project")
    (workspace.folder / "params.yaml").write_text(ALIASED)
    done = workspace.snakemake("data/digits/S1.h5")
    assert done.ran == {"preprocess/digits/S1"}
    assert done.output.count("note: the alias on line 17 ") == 1
    assert b"note: " not in workspace.read("logs/preprocess/digits/*.log")["logs/preprocess/digits/S1.log"]
