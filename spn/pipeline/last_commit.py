"""What differs from the last commit: parameters, and the bits/dim of chains.

`spn verify` prints it. It stands in no result, because results are functions of their recipes, and a commit of such a
page would already change it.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spn.config import InputError
from spn.config.reading import parse_document
from spn.paths import METRICS

LOCK, CACHE = Path("dvc.lock"), Path(".dvc/cache/files/md5")
SHOWN = 12
"""Maximum number of changed parameters that are listed."""

Found = dict[str, Any]


def change_lines(params_file: Path, results: Path) -> list[str]:
    """Compare params.yaml and the figures of chains with those of the last commit, line by line.

    Figures are read from Git, or from DVC's cache if the commit's dvc.lock has them. What cannot be compared is named.
    """
    commit = _git("rev-parse", "--short", "HEAD")
    if commit is None:
        return ["compared with no commit, because Git has none of this folder"]
    metrics = results / METRICS
    lines = [
        *_params_lines(params_file, _shown(params_file)),
        *_metrics_lines(metrics, _shown(metrics) or _cached(metrics)),
    ]
    return [f"since commit {commit.strip()}:", *(f"  {line}" for line in lines)]


def _params_lines(path: Path, before: str | None) -> list[str]:
    if before is None:
        return [f"{path}: nothing to compare with"]
    try:
        old, new = (dict(_leaves(parse_document(path, text).values)) for text in (before, path.read_text()))
    except InputError as error:
        return [f"not compared: {error}"]
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    lines = [f"{path}: {key}: {_text(old, key)} -> {_text(new, key)}" for key in changed]
    more = [f"{path}: and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [*lines[:SHOWN], *more] or [f"{path}: the same"]


def _metrics_lines(path: Path, before: str | None) -> list[str]:
    old = None if before is None else _figures(before)
    if old is None:
        return [f"{path}: nothing to compare with"]
    new = _figures(path.read_text()) or {}
    lines = []
    for chain in {**new, **old}:
        if chain not in old:
            lines.append(f"{chain}: new")
        elif chain not in new:
            lines.append(f"{chain}: no longer there")
        elif f"{old[chain]:.4f}" != f"{new[chain]:.4f}":
            change = new[chain] - old[chain]
            lines.append(f"{chain}: {old[chain]:.4f} -> {new[chain]:.4f} bits/dim ({change:+.4f})")
    return lines or [f"{path}: the same bits/dim"]


def _leaves(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value with its dotted key; a list is one value."""
    if not isinstance(values, dict):
        yield key, values
        return
    for name, value in values.items():
        yield from _leaves(value, f"{key}.{name}" if key else name)


def _text(values: Found, key: str) -> str:
    return json.dumps(values[key]) if key in values else "nothing"


def _figures(text: str) -> dict[str, float] | None:
    """Return the bits/dim of each chain; None if the text is no metrics.json of this pipeline."""
    try:
        return {chain: float(figures["bits_per_dim"]) for chain, figures in json.loads(text).items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _shown(path: Path) -> str | None:
    """Return a file of the last commit; None if it has none."""
    return _git("show", f"HEAD:./{os.path.relpath(path)}")


def _cached(path: Path) -> str | None:
    """Return a file that the dvc.lock of the last commit names, from DVC's cache; None if it is not there."""
    lock = _shown(LOCK)
    try:
        stages = {} if lock is None else parse_document(LOCK, lock).values["stages"]
        outs = [out for stage in stages.values() for out in stage["outs"] if out["path"] == path.as_posix()]
        return (CACHE / outs[0]["md5"][:2] / outs[0]["md5"][2:]).read_text() if outs else None
    except (InputError, KeyError, TypeError, AttributeError, OSError):
        return None


def _git(*command: str) -> str | None:
    """Return what Git prints; None if it fails or is not installed."""
    try:
        done = subprocess.run(("git", *command), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
