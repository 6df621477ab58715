"""The real DVC's experiments: queued, beside each other, in temporary workspaces, compared and applied."""

import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import chromium
from experiment import read_history
from mlflow.entities import Run
from workspace import ROOT, Workspace, finished, with_steps

from spn.checkpoint import load_tensors, save_tensors
from spn.config import load_params
from spn.data.hdf5 import SliceFile
from spn.provenance import training_recipe
from spn.tracking import load_experiment
from spn.training import train_stage
from spn.training.history import Row
from spn.training.lock import state_path

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("workspace")]

CPU = torch.device("cpu")
LONGER = {"low": "stages.low.training.steps=7", "raster": "stages.raster.training.steps=7"}
SECONDS_BEFORE = 1000.0
"""Of the interrupted training, by which one that resumes it is known."""

BROKEN = 'raise SystemExit("the code of the repository, not of the workspace")\n'


class InterruptionError(Exception):
    """Ends a training."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A copy of a repository in which everything is made and committed."""
    copy = finished(tmp_path_factory.getbasetemp())[0].copy(tmp_path_factory.mktemp("experiments") / "project")
    # Before any experiment, which knows only the remotes of the commit that it starts from.
    copy.run("dvc", "remote", "add", "--default", "storage", str(copy.folder.with_name("storage")))
    copy.commit()
    yield copy
    copy.run("dvc", "queue", "stop", "--kill")


@pytest.fixture(scope="module")
def queued(repository: Workspace) -> set[str]:
    """Run two experiments from the queue, beside each other; return the stages that they trained.

    One of them finds the training that it asks for interrupted. The code of the repository is edited after they are
    queued, so that neither may use it.
    """
    for stage, change in LONGER.items():
        repository.run("dvc", "exp", "run", "--queue", "--name", stage, "-S", change)
    interrupt(repository, "low")
    repository.append("spn/config/__init__.py", BROKEN)
    ran = [repository.run("dvc", "queue", "start", "--jobs", "2")]
    ran += [repository.run("dvc", "queue", "logs", "--follow", name) for name in LONGER]
    repository.run("git", "checkout", "spn")
    return {stage for done in ran for stage in done.trained}


def interrupt(repository: Workspace, stage: str) -> None:
    """Leave the state of a training of seven steps that was interrupted after three."""

    def observe(row: Row) -> None:
        if row["step"] > 3:  # at which it was validated, and saved
            raise InterruptionError

    folder = repository.folder
    repository.write_params(with_steps(stage, 7))
    params, slices = load_params(folder / "params.yaml"), SliceFile(folder / "data/digits/S2.h5")
    repository.run("git", "checkout", "params.yaml")
    with pytest.raises(InterruptionError):
        train_stage(params, stage, slices, folder / "nowhere", folder / "runs", CPU, observe)
    state = state_path(folder / "runs", training_recipe(params, stage, slices.digest))
    tensors, notes = load_tensors(state)
    assert notes["step"] == 3
    save_tensors(state, tensors, notes | {"seconds": SECONDS_BEFORE})


def recorded(repository: Workspace, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Return the MLflow runs of the repository's store that experiments of DVC made."""
    monkeypatch.chdir(repository.folder)  # the address of the store is relative
    store = load_experiment(Path("mlflow/experiment.json"))
    return [run for run in store.client.search_runs([store.id]) if "dvc_experiment" in run.data.tags]


def shown(repository: Workspace, *options: str) -> dict[str, dict[str, str]]:
    """Return the columns that `dvc exp show` has for each experiment."""
    text = repository.run("dvc", "exp", "show", "--csv", "--hide-workspace", *options).output
    return {row.pop("Experiment") or row["rev"]: row for row in csv.DictReader(io.StringIO(text))}


def diff(repository: Workspace, *command: str) -> Any:
    return json.loads(repository.run("dvc", *command, "--json").output)


def test_the_queue_trains_what_changed_with_its_own_code(repository: Workspace, queued: set[str]) -> None:
    assert queued == set(LONGER)
    assert repository.run("dvc", "queue", "status").output.count("Success") == len(LONGER)
    assert repository.run("git", "status", "--porcelain").output == ""
    for name in LONGER:
        log = repository.run("dvc", "queue", "logs", name).output
        assert re.search(r"all (\d+) jobs done", log), log
    assert not list(repository.folder.glob(".dvc/tmp/exps/tmp*"))


@pytest.mark.usefixtures("queued")
def test_runs_are_in_the_store_of_the_repository(repository: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {(run.info.run_name, run.data.tags["kind"]): run for run in recorded(repository, monkeypatch)}
    experiments = {key: run.data.tags["dvc_experiment"] for key, run in found.items()}
    stages = {(stage, "stage"): stage for stage in LONGER}
    assert experiments == stages | {("depth", "chain"): "low", ("raster", "chain"): "raster"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}


@pytest.mark.usefixtures("queued")
def test_a_temporary_workspace_trains_nothing_that_was_trained(repository: Workspace) -> None:
    options = [part for change in LONGER.values() for part in ("-S", change)]
    assert repository.run("dvc", "exp", "run", "--temp", "--name", "both", *options).trained == set()
    rows = shown(repository, "--only-changed", "--drop", ".*standard_error")
    figures = {"raster.bits_per_dim", "depth.bits_per_dim", "depth.stages.low"}
    assert rows["both"].keys() - {"rev", "typ", "Created", "parent", "State", "Executor"} == figures | {
        change.split("=")[0] for change in LONGER.values()
    }
    assert rows["both"]["raster.bits_per_dim"] == rows["raster"]["raster.bits_per_dim"]
    assert rows["both"]["depth.stages.low"] == rows["low"]["depth.stages.low"]
    assert rows["low"]["raster.bits_per_dim"] != rows["raster"]["raster.bits_per_dim"]


@pytest.mark.usefixtures("queued")
def test_columns_are_figures(repository: Workspace) -> None:
    columns = [name for name in shown(repository)["low"] if name.startswith(("raster.", "depth."))]
    totals = ["bits_per_dim", "standard_error", "num_parameters"]
    assert sorted(columns) == sorted(
        [
            *(f"{chain}.{each}" for chain in ("raster", "depth") for each in totals),
            "depth.stages.high",
            "depth.stages.low",
        ]
    )


@pytest.mark.usefixtures("queued")
def test_metrics_of_two_experiments_are_compared(repository: Workspace) -> None:
    compared = diff(repository, "metrics", "diff", "raster", "low")["results/metrics.json"]
    figures = {"depth.bits_per_dim", "depth.standard_error", "depth.stages.low"}
    assert compared.keys() == figures | {"raster.bits_per_dim", "raster.standard_error"}
    assert diff(repository, "params", "diff", "HEAD", "low")["params.yaml"] == {
        "stages.low.training.steps": {"old": 6, "new": 7, "diff": 1}
    }


@pytest.mark.usefixtures("queued")
def test_plots_are_read_without_a_network(repository: Workspace, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    repository.run(sys.executable, str(ROOT / "workflow/plots_page.py"), str(page))
    repository.run("dvc", "plots", "diff", "HEAD", *LONGER)
    with chromium(tmp_path / "profile", ROOT / "test-output") as person:
        person.go((repository.folder / "dvc_plots/index.html").as_uri())
        drawn = person.wait(
            "plots", lambda driver: len(driver.find_elements("css selector", ".vega-embed canvas")) == 4
        )
        person.keep("dvc_plots")
        assert drawn


@pytest.mark.usefixtures("queued")
def test_an_experiment_is_applied(repository: Workspace, tmp_path: Path) -> None:
    copy = repository.copy(tmp_path / "project")
    copy.run("dvc", "exp", "apply", "low")
    assert set(copy.run("git", "status", "--porcelain").output.split()) == {"M", "dvc.lock", "params.yaml"}
    assert load_params(copy.folder / "params.yaml").stages["low"].training.steps == 7
    # It had resumed the interrupted training.
    assert read_history(copy.folder / "results/stages/low/history.csv")[-1]["training_seconds"] > SECONDS_BEFORE
    assert copy.plan() == {"record/depth", "reproduce"}
    copy.run("git", "init", "--quiet", "--bare", str(tmp_path / "origin"))
    copy.run("git", "remote", "add", "origin", str(tmp_path / "origin"))
    copy.run("dvc", "exp", "push", "origin", "low")
    assert "refs/exps/" in copy.run("git", "ls-remote", "origin").output
    assert any(repository.folder.with_name("storage").rglob("*"))
    copy.run("dvc", "exp", "remove", "raster")
    assert "raster" not in copy.run("dvc", "exp", "list", "--all-commits", "--name-only").output.split()


def test_snakemake_needs_no_dvc(repository: Workspace, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("spn", "snakemake"):
        (programs / name).symlink_to(Path(sys.executable).with_name(name))
    hidden = tmp_path / "hidden/dvc/__init__.py"
    hidden.parent.mkdir(parents=True)
    hidden.write_text("raise ImportError('dvc is not installed')\n")
    copy = repository.copy(tmp_path / "project")
    path = f"{programs}:/usr/bin:/bin"
    without = replace(copy, variables={"PATH": path, "PYTHONPATH": str(hidden.parents[1])})
    assert shutil.which("dvc", path=path) is None
    without.write_params(with_steps("high", 7))
    target = without.snakemake("results/stages/high/metrics.json")
    assert (target.ran, target.trained) == ({"train/high", "evaluate/high"}, {"high"})
