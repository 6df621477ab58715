"""The results of a workspace, without seconds and rates, and those of a run that nothing disturbed."""

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from chaos_states import CHAIN, FINAL, NAME, STAGES, set_up
from workspace import Workspace, fresh

from spn.notes import FILES, read_notes

TIMED_FILES = {"timing.json", "gallery.html", "report.html"}
TIMED = {"images_per_second", "training_seconds"}
"""Columns of a history."""


def results(workspace: Workspace) -> dict[str, Any]:
    """Read every file under data/ and results/, by its path; temporary ones, too."""
    return {
        str(path.relative_to(workspace.folder)): _untimed(path)
        for place in ("data", "results")
        for path in sorted((workspace.folder / place).rglob("*"))
        if path.is_file() and path.name not in TIMED_FILES | {".gitignore"}
    }


def _untimed(path: Path) -> Any:
    match path.name:
        case "checkpoint.safetensors":
            notes, content = read_notes(path), path.read_bytes()
            del notes[FILES]  # whose only one has times
            notes["history"] = [_without_times(row) for row in notes["history"]]
            return notes, content[8 + int.from_bytes(content[:8], "little") :]
        case "model.safetensors":
            notes, content = read_notes(path), path.read_bytes()
            del notes["commit"]  # of another repository
            for training in notes["training"].values():
                del training["seconds"]
            return notes, content[8 + int.from_bytes(content[:8], "little") :]
        case "history.csv":
            with path.open(newline="") as file:
                return [_without_times(row) for row in csv.DictReader(file)]
        case "report.json":
            notes = json.loads(path.read_text())
            notes[FILES] = {name: digest for name, digest in notes[FILES].items() if name not in TIMED_FILES}
            return {key: value for key, value in notes.items() if key != "sha256"}
        case _:
            return path.read_bytes()


def _without_times(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in TIMED}


def differing(results: dict[str, Any], others: dict[str, Any]) -> list[str]:
    """Name the files that are not the same as those of an undisturbed run."""
    return [
        f"{path}: {'not there' if path not in results else 'too much' if path not in others else 'other content'}"
        for path in sorted(results.keys() | others.keys())
        if path not in results or path not in others or results[path] != others[path]
    ]


@cache
def undisturbed(folder: Path, number: int) -> Workspace:
    """Make everything of a final state in one process, verb after verb, without Snakemake or DVC."""
    workspace = fresh(folder / f"undisturbed-{number}")
    set_up(workspace, FINAL[number])
    commands = json.dumps(list(verbs()))
    script = "import json, sys; from spn.cli import main; sys.exit(any(map(main, json.loads(sys.argv[1]))))"
    workspace.run(sys.executable, "-c", script, commands)
    return workspace


def verbs() -> Iterator[list[str]]:
    """List the commands that make everything."""
    data = f"data/{NAME}/S2.h5"
    yield ["preprocess", "--scale-factor", "2", "--output", data]
    given: list[str] = []
    for stage in STAGES:
        output, samples = f"results/stages/{stage}", f"results/chains/{CHAIN}/{stage}"
        read = ["--data", data, "--checkpoint", f"{output}/checkpoint.safetensors"]
        yield ["train", stage, "--data", data, "--output", output]
        yield ["evaluate", stage, *read, "--output", output]
        yield ["sample_stage", CHAIN, stage, *read, *given, "--output", samples]
        given = ["--given", f"{samples}/samples.h5"]
    yield ["summarise", CHAIN, "--output", f"results/chains/{CHAIN}/metrics.json"]
    yield ["export", CHAIN, "--data", data, "--output", f"results/chains/{CHAIN}"]
    yield ["record", CHAIN, "--output", f"mlflow/chains/{CHAIN}.json"]
    yield ["report", "--data", data]
    yield ["verify"]
