"""What `spn verify` says of the last commit, in real repositories."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from spn.pipeline.last_commit import SHOWN, change_lines

PARAMS, RESULTS = Path("params.yaml"), Path("results")
METRICS = RESULTS / "metrics.json"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an experiment's folder below the repository's."""
    experiment = tmp_path / "repository/experiment"
    (experiment / RESULTS).mkdir(parents=True)
    monkeypatch.chdir(experiment)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return experiment


def write(steps: int = 900, metrics: dict[str, Any] | None = None) -> None:
    PARAMS.write_text(f"seed: 1\nstages:\n  low: {{bits: [0, 2], training: {{steps: {steps}}}}}\n")
    chains = {"depth": 1.25, "raster": 1.5} if metrics is None else metrics
    METRICS.write_text(json.dumps({chain: {"bits_per_dim": bits} for chain, bits in chains.items()}))


def git(*command: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    return subprocess.run(("git", *identity, *command), check=True, capture_output=True, text=True).stdout.strip()


def commit(*files: Path) -> str:
    git("init", "--quiet", "..")
    git("add", "--force", *map(str, files))
    git("commit", "--quiet", "--message", "results")
    return f"since commit {git('rev-parse', '--short', 'HEAD')}:"


def test_changes_of_parameters_and_figures_are_listed_by_name() -> None:
    write()
    since = commit(PARAMS, METRICS)
    assert change_lines(PARAMS, RESULTS) == [
        since, "  params.yaml: the same", "  results/metrics.json: the same bits/dim"
    ]  # fmt: skip
    write(steps=1000, metrics={"depth": 1.125, "new": 2.0})
    assert change_lines(PARAMS, RESULTS) == [
        since,
        "  params.yaml: stages.low.training.steps: 900 -> 1000",
        "  depth: 1.2500 -> 1.1250 bits/dim (-0.1250)",
        "  new: new",
        "  raster: no longer there",
    ]


def test_keys_come_and_go_and_only_some_are_listed() -> None:
    write()
    since = commit(PARAMS, METRICS)
    PARAMS.write_text("seed: 1\nstages:\n  low: {bits: [0, 3], training: {steps: 900}}\n" + "more: yes please\n")
    assert change_lines(PARAMS, RESULTS)[:3] == [
        since,
        "  params.yaml: stages.low.bits: [0, 2] -> [0, 3]",
        '  params.yaml: more: nothing -> "yes please"',
    ]
    PARAMS.write_text("".join(f"key{number}: 1\n" for number in range(SHOWN + 5)))
    lines = change_lines(PARAMS, RESULTS)
    assert lines[1:4] == [
        "  params.yaml: seed: 1 -> nothing",
        "  params.yaml: stages.low.bits: [0, 2] -> nothing",
        "  params.yaml: stages.low.training.steps: 900 -> nothing",
    ]
    assert lines[SHOWN + 1 :] == ["  params.yaml: and 8 more", "  results/metrics.json: the same bits/dim"]


def test_figures_that_dvc_versions_are_read_from_its_cache() -> None:
    write()
    md5 = hashlib.md5(METRICS.read_bytes(), usedforsecurity=False).hexdigest()
    lock = Path("dvc.lock")
    lock.write_text(f"stages:\n  reproduce:\n    outs:\n    - {{path: results/metrics.json, md5: {md5}}}\n")
    since = commit(PARAMS, lock)
    no_figures = [since, "  params.yaml: the same", "  results/metrics.json: nothing to compare with"]
    assert change_lines(PARAMS, RESULTS) == no_figures
    cached = Path(".dvc/cache/files/md5", md5[:2], md5[2:])
    cached.parent.mkdir(parents=True)
    METRICS.rename(cached)
    write(metrics={"depth": 1.0, "raster": 1.5})
    assert change_lines(PARAMS, RESULTS)[2:] == ["  depth: 1.2500 -> 1.0000 bits/dim (-0.2500)"]


def test_nothing_to_compare_with_is_said_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    write()
    nothing = ["compared with no commit, because Git has none of this folder"]
    assert change_lines(PARAMS, RESULTS) == nothing
    git("init", "--quiet", "..")
    assert change_lines(PARAMS, RESULTS) == nothing
    other = Path("other")
    other.write_text("")
    since = commit(other)
    assert change_lines(PARAMS, RESULTS) == [
        since, "  params.yaml: nothing to compare with", "  results/metrics.json: nothing to compare with"
    ]  # fmt: skip
    PARAMS.write_text("seed: [")
    METRICS.write_text('{"depth": 3}')
    Path("dvc.lock").write_text("stages: 3")
    since = commit(PARAMS, METRICS, Path("dvc.lock"))
    write()
    first, parameters, figures = change_lines(PARAMS, RESULTS)
    assert (first, figures) == (since, "  results/metrics.json: nothing to compare with")
    assert parameters.startswith("  not compared: params.yaml: not valid YAML")
    monkeypatch.setenv("PATH", "")
    assert change_lines(PARAMS, RESULTS) == nothing
