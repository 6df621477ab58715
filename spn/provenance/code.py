"""Digests of code: the modules of this package that a verb imports, as syntax trees.

Comments, docstrings and layout do not count. A module that this process has loaded is digested as it was loaded, any
other as it lies on the disk: so a verb first loads all of its code (`load_code`), and then states the digest of what it
will run, whatever is edited meanwhile; what only compares (the Snakefile, `verify`) loads nothing.
"""

import ast
import hashlib
import importlib
import subprocess
import sys
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from spn.loading import loaded_source

ROOT = Path(__file__).parents[1]
NOT_SCIENCE = {"__init__.py", "cli", "config", "files.py", "loading.py", "notes.py", "provenance"}
"""Not part of a digest unless they are named as roots: what they decide is in the recipe itself, or is no more than how
files are read and written. Where more is decided, as by some verbs, it is named."""


def git_commit(folder: Path = ROOT) -> str | None:
    """Return the commit the code was run from, with `-dirty` if it was changed since; None outside a repository."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def load_code(*roots: str) -> None:
    """Import every module that `code_digest` of the same roots covers, imports inside functions included."""
    while missing := [name for name in map(_dotted, _closure(roots)) if name not in sys.modules]:
        for name in missing:
            importlib.import_module(name)
    code_digest.cache_clear()


@cache
def code_digest(*roots: str) -> str:
    """Hash the modules of this package that `roots` import, directly or not.

    Roots are paths inside the package, of modules or of folders, or `module.py:function`: that function alone, without
    what it imports.
    """
    digest = hashlib.sha256()
    for path in sorted(_closure(roots)):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\n".encode())
        digest.update(_parse(_source(path)).digest)
    for module, _, function in (root.partition(":") for root in roots):
        if function:
            digest.update(f"{module}:{function}\n".encode())
            digest.update(_parse_function(_source(ROOT / module), function))
    return digest.hexdigest()


def _closure(roots: tuple[str, ...]) -> set[Path]:
    modules = {ROOT / root for root in roots if ":" not in root}
    found: set[Path] = set()
    waiting = [file for module in modules for file in _with_packages(module)]
    while waiting:
        path = waiting.pop()
        if path in found or (path.relative_to(ROOT).parts[0] in NOT_SCIENCE and path not in modules):
            continue
        found.add(path)
        waiting += [file for name in _parse(_source(path)).imported for file in _with_packages(_locate(name))]
    return found


def _source(path: Path) -> bytes:
    loaded = loaded_source(_dotted(path))
    return path.read_bytes() if loaded is None else loaded


@cache
def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class _Module(NamedTuple):
    """The dotted names inside this package that a module imports, of modules or things in them, and its digest."""

    imported: tuple[str, ...]
    digest: bytes


@lru_cache(maxsize=1000)
def _parse(source: bytes) -> _Module:
    """Parse a module once: digests of several roots share most of them."""
    tree = ast.parse(source)
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not followed"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    inside = (name for name in names if name.split(".")[0] == ROOT.name)
    return _Module(tuple(inside), _tree_digest(tree))


@lru_cache(maxsize=1000)
def _parse_function(source: bytes, name: str) -> bytes:
    """Parse a function at the top level of a module."""
    (function,) = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name)
    return _tree_digest(function)


@cache
def _locate(name: str) -> Path:
    """Find the module that `name` is, or lies in."""
    path = ROOT.joinpath(*name.split(".")[1:])
    while not (path.is_dir() or path.with_suffix(".py").is_file()):
        path = path.parent
    return path if path.is_dir() else path.with_suffix(".py")


@cache
def _with_packages(path: Path) -> list[Path]:
    """List a module and the packages around it, all of which importing it runs."""
    if path.is_dir():
        path = path / "__init__.py"
    packages = [folder / "__init__.py" for folder in path.parents if folder == ROOT or ROOT in folder.parents]
    return [path, *packages]


def _tree_digest(tree: ast.AST) -> bytes:
    return hashlib.sha256(repr(_canonical(tree)).encode()).digest()


def _canonical(node: Any) -> Any:
    """Reduce a syntax tree to tuples that are the same under every version of Python."""
    if isinstance(node, list):
        return [_canonical(item) for item in node if not _is_docstring(item)]
    if not isinstance(node, ast.AST):
        return node
    fields = [(name, _canonical(value)) for name, value in ast.iter_fields(node) if name != "kind"]
    return type(node).__name__, [field for field in fields if field[1] not in (None, [])]


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
