"""Recipes: what a result was made from, so that nothing is trained twice and nothing stale is used.

A recipe is a nested dictionary of JSON values: the resolved stage, the data section and the digests of data and code.
It travels inside the checkpoint; every consumer compares it with the one asked for.
"""

import ast
import hashlib
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from spn.config import Params
from spn.files import json_digest

Recipe = dict[str, Any]

ROOT = Path(__file__).parent
NOT_SCIENCE = {"config", "provenance.py", "files.py"}
"""Not part of a code digest: what they decide is in the recipe itself, or is no more than how files are written."""


def stage_recipe(params: Params, stage: str, data_digest: str) -> Recipe:
    """Resolve everything that decides the weights of `stage`."""
    section = params.stages[stage]
    plan = params.stage_plans[stage]
    return {
        "stage": stage,
        "seed": params.seed,
        "plan": {
            "scale_factor": plan.scale_factor,
            "slices": section.slices,
            "bits": list(plan.bits),
            "num_levels": plan.num_levels,
            "own_mask": plan.own_mask,
            "targets": [list(target) for target in plan.targets],
            "known": [list(row) for row in plan.known],
            "num_classes": plan.num_classes,
        },
        "model": section.model.model_dump(mode="json"),
        "training": section.training.model_dump(mode="json"),
        # The number of classes changes nothing but the stages that are told of them, whose plans have it; the digest of
        # the source says what is refused, not what is learned.
        "data": params.data.model_dump(mode="json", exclude={"num_classes", "source_digest"}),
        "data_digest": data_digest,
        "code_digest": code_digest("training", f"models/{section.model.family}.py"),
    }


def recipe_digest(recipe: Recipe) -> str:
    """Hash a recipe; equal recipes have equal digests."""
    return json_digest(recipe)


def differing_keys(expected: Any, actual: Any, key: str = "") -> list[str]:
    """List where two recipes differ, as `dotted.key: expected X, got Y`."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        return [
            line
            for name in sorted(expected.keys() | actual.keys())
            for line in differing_keys(expected.get(name), actual.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if expected == actual else [f"{key}: expected {expected}, got {actual}"]


def git_commit(folder: Path = ROOT) -> str | None:
    """Name the commit the code was run from, with `-dirty` where it was changed since; None outside a repository."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


@cache
def code_digest(*roots: str) -> str:
    """Hash the modules of this package that `roots` import, directly or not.

    The syntax tree is what is hashed: comments, docstrings and layout do not count. Roots are paths inside the package.
    """
    digest = hashlib.sha256()
    for path in sorted(_closure([ROOT / root for root in roots])):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\n".encode())
        digest.update(_parse(path).canonical)
    return digest.hexdigest()


def _closure(roots: list[Path]) -> set[Path]:
    found: set[Path] = set()
    waiting = [file for root in roots for file in _with_packages(root)]
    while waiting:
        path = waiting.pop()
        if path in found or path.relative_to(ROOT).parts[0] in NOT_SCIENCE:
            continue
        found.add(path)
        waiting += [file for name in _parse(path).imported for file in _with_packages(_locate(name))]
    return found


class _Module(NamedTuple):
    """The dotted names inside this package that a module imports, of modules or things in them, and its syntax tree."""

    imported: tuple[str, ...]
    canonical: bytes


@cache
def _parse(path: Path) -> _Module:
    """Parse a module once: digests of several roots share most of them."""
    tree = ast.parse(path.read_bytes())
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not followed"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    inside = (name for name in names if name.split(".")[0] == ROOT.name)
    return _Module(tuple(inside), repr(_canonical(tree)).encode())


def _locate(name: str) -> Path:
    """Find the module that `name` is, or lies in."""
    path = ROOT.joinpath(*name.split(".")[1:])
    while not (path.is_dir() or path.with_suffix(".py").is_file()):
        path = path.parent
    return path if path.is_dir() else path.with_suffix(".py")


def _with_packages(path: Path) -> list[Path]:
    """Give a module and the packages around it, all of which importing it runs."""
    if path.is_dir():
        path = path / "__init__.py"
    packages = [folder / "__init__.py" for folder in path.parents if folder == ROOT or ROOT in folder.parents]
    return [path, *packages]


def _canonical(node: Any) -> Any:
    """Reduce a syntax tree to tuples that are the same under every version of Python."""
    if isinstance(node, list):
        return [_canonical(item) for item in node if not _is_docstring(item)]
    if not isinstance(node, ast.AST):
        return node
    fields = [
        (name, _canonical(value)) for name, value in ast.iter_fields(node) if name not in ("kind", "type_ignores")
    ]
    return type(node).__name__, [field for field in fields if field[1] not in (None, [])]


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
