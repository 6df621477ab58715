"""Digests of code: the definitions that decide a result, as syntax trees.

A digest starts at *roots* and follows names within this package: it covers each function or class that a root mentions,
and whatever these mention in turn. A definition that nothing mentions is not covered, even in the same file. Comments,
docstrings, annotations, layout and the place of a definition do not count.

A loaded module is digested as it was loaded, any other as it is on disk. A verb therefore loads all of its code first
(`load_code`) and then states the digest of the code that it will run, even if files are edited meanwhile. The Snakefile
and `verify` only compare, and load nothing.
"""

import ast
import hashlib
import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from spn.loading import loaded_source

ROOT = Path(__file__).parents[1]

PLUMBING = {
    "api/__init__.py": "loads a model file, which has a recipe of its own",
    "checkpoint.py": "how weights are written and read",
    "cli": "reads options and hands them on",
    "config": "recipes hold what it decides: defaults, tilings, temperatures, levels of white",
    "console": "shows progress",
    "data/seal.py": "how damaged slices are detected",
    "distributed.py": "the processes of a job, which compute what one process would",
    "files.py": "how files are written",
    "lock.py": "lets one job at a time make something",
    "loading.py": "how modules are loaded; the loaded modules are digested",
    "machine.py": "how this machine multiplies float32 matrices, which matters only within float32 precision",
    "notes.py": "how notes in results are read",
    "paths.py": "where results lie",
    "pipeline/names.py": "refuses unknown names",
    "pipeline/place.py": "chooses the device",
    "tracking/served.py": "loads a model file, which has a recipe of its own",
    "provenance": "writes the recipes: a change shows in the recipes themselves",
}
"""Modules and folders that digests do not follow names into, and why."""

DOORS = {
    "data/sources/__init__.py:open_source": ("data/sources/{source}.py:open_{source}",),
    "generation/walk.py:build_steps": ("models/{family}.py:steps",),
    "laws/__init__.py:build_head": ("laws/{law}.py:head", "laws/{law}.py:output_law"),
    "laws/__init__.py:build_masked_head": ("laws/{law}.py:output_law",),
    "laws/__init__.py:head_steps": ("laws/{law}.py:head_steps",),
    "stages/__init__.py:build_stage": ("stages/{kind}.py:build",),
    "models/__init__.py:build_model": ("models/{family}.py:build",),
}
"""Definitions that call others by a name from params.yaml, and what each calls: the first of those that exist."""


class Definition(NamedTuple):
    """A definition at the top level of a module: the module's path, and the name."""

    path: Path
    name: str


LOOSE = ""
"""The name of a module's statements that define nothing, such as calls; importing the module runs them."""


def git_commit(folder: Path = ROOT) -> str | None:
    """Return the current commit, with `-dirty` if files have changed since; None outside a repository."""
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None


def code_commit() -> str | None:
    """Return the last commit that changed this package, `-dirty` if it has changed since; None outside a repository.

    Other files of the repository do not count, so that the same code has the same name under other parameters.
    """
    commit, changes = (
        _git(ROOT, "log", "-1", "--format=%H", "--", "."),
        _git(ROOT, "status", "--porcelain", "--", "."),
    )
    return f"{commit}-dirty" if commit and changes else commit or None


def _git(folder: Path, *command: str) -> str:
    """Return what Git prints, without the end of the line; nothing if it fails or is not installed."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def load_code(*roots: str, **chosen: str) -> None:
    """Import every module in which `code_digest` finds a definition, given the same arguments."""
    while missing := {_dotted(path) for path, _ in reach(*roots, **chosen)} - sys.modules.keys():
        for name in sorted(missing):
            importlib.import_module(name)
    code_digest.cache_clear()


def reach(*roots: str, **chosen: str) -> set[Definition]:
    """Find the definitions that `code_digest` hashes, given the same arguments."""
    walk = _Walk(chosen)
    for root in roots:
        for definition in _definitions(root):
            walk.digest(definition)
    return {*walk.digests}


@cache
def code_digest(*roots: str, **chosen: str) -> str:
    """Hash the definitions of this package that `roots` lead to.

    A root is the path of a module inside the package (for everything that it defines), or `module.py:name`. `chosen`
    has the names that params.yaml chooses (`family`, `law`, `kind`, `source`); doors of other kinds are not followed.
    """
    walk = _Walk(chosen)
    digests = [walk.digest(definition) for root in sorted(roots) for definition in _definitions(root)]
    return hashlib.sha256(b"".join(digests)).hexdigest()


@dataclass
class _Walk:
    """A walk over definitions along the names that they mention, visiting each once."""

    chosen: dict[str, str]
    digests: dict[Definition, bytes] = field(default_factory=dict)

    def digest(self, definition: Definition) -> bytes:
        """Hash a definition, the names that it mentions, and the digests of the definitions behind these names.

        In a cycle, a definition that is met again counts by its own text alone.
        """
        if definition not in self.digests:
            module = _parse(_source(definition.path))
            text = module.texts[definition.name]
            self.digests[definition] = text.digest
            digest = hashlib.sha256(text.digest)
            for mention, target in (*_mentioned(definition), *self._behind(definition)):
                digest.update(f"{mention}\n".encode())
                digest.update(self.digest(target))
            self.digests[definition] = digest.digest()
        return self.digests[definition]

    def _behind(self, definition: Definition) -> list[tuple[str, Definition]]:
        """Find the definition that a door leads to."""
        key = f"{definition.path.relative_to(ROOT).as_posix()}:{definition.name}"
        names = [name for name in DOORS.get(key, ()) if name.split("{")[1].split("}")[0] in self.chosen]
        for name in (name.format(**self.chosen) for name in names):
            file, _, what = name.partition(":")
            module = _parse(_source(ROOT / file))
            if what in module.texts or what in module.imports:
                return [("", target) for target in _resolve(f"{_dotted(ROOT / file)}.{what}")]
        return []


def _definitions(root: str) -> list[Definition]:
    """List the definitions of a root."""
    module, _, name = root.partition(":")
    path = ROOT / module
    texts = _parse(_source(path)).texts
    return [Definition(path, name)] if name else [Definition(path, each) for each in sorted(texts)]


def _mentioned(definition: Definition) -> list[tuple[str, Definition]]:
    """Resolve the names that a definition mentions, if they belong to this package and not to its plumbing."""
    path = definition.path
    module = _parse(_source(path))
    text = module.texts[definition.name]
    names = module.imports | text.imports
    found: dict[str, list[Definition]] = {}
    for mention in text.mentions:
        first, *rest = mention.split(".")
        if first in text.imports or (first in names and first not in module.texts):
            found[mention] = _resolve(".".join((names[first], *rest)))
        elif first in module.texts:
            found[mention] = [Definition(path, first)]
    if LOOSE in module.texts and definition.name != LOOSE:
        found[LOOSE] = [Definition(path, LOOSE)]
    targets = [(mention, target) for mention in sorted(found) for target in found[mention]]
    return [each for each in targets if each[1].path == path or not _is_plumbing(each[1].path)]


def _resolve(dotted: str) -> list[Definition]:
    """Find what a dotted name of this package stands for, through packages that re-export it.

    A module by itself, for example in `getattr(module, name)`, stands for everything that it defines.
    """
    path, rest = ROOT, dotted.split(".")[1:]
    while path.is_dir():
        inside = _inside(path, rest[0]) if rest else None
        path, rest = (path / "__init__.py", rest) if inside is None else (inside, rest[1:])
    if _is_plumbing(path):
        return []
    module = _parse(_source(path))
    if not rest:
        return [Definition(path, name) for name in sorted(module.texts)]
    if rest[0] in module.texts:
        return [Definition(path, rest[0])]
    assert rest[0] in module.imports, f"{dotted}: expected something of this package"
    return _resolve(".".join((module.imports[rest[0]], *rest[1:])))


@cache
def _is_plumbing(path: Path) -> bool:
    return any(path.is_relative_to(ROOT / name) for name in PLUMBING)


def _inside(path: Path, name: str) -> Path | None:
    """Find a module or package by its name inside a package; None if there is none."""
    return next((each for each in (path / name, path / f"{name}.py") if each.exists()), None)


def _source(path: Path) -> bytes:
    loaded = loaded_source(_dotted(path))
    return path.read_bytes() if loaded is None else loaded


@cache
def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@dataclass(frozen=True)
class _Text:
    """The digest of a definition's text, the dotted names that it mentions, and the imports inside it."""

    digest: bytes
    mentions: frozenset[str]
    imports: dict[str, str]


@dataclass(frozen=True)
class _Module:
    """The top-level definitions of a module by name, and its imports from this package."""

    texts: dict[str, _Text]
    imports: dict[str, str]


@lru_cache(maxsize=1000)
def _parse(source: bytes) -> _Module:
    """Parse a module; cached, because the digests of several roots share most modules."""
    statements: dict[str, list[ast.stmt]] = {}
    imports: dict[str, str] = {}
    for statement in ast.parse(source).body:
        if not isinstance(statement, _DEFINING):
            imports |= dict(_imports(statement))
        if isinstance(statement, ast.Import | ast.ImportFrom) or _is_docstring(statement) or _is_for_types(statement):
            continue
        for name in _bound(statement) or [LOOSE]:
            statements.setdefault(name, []).append(statement)
    return _Module({name: _text(each) for name, each in statements.items()}, imports)


_DEFINING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _bound(statement: ast.stmt) -> list[str]:
    """List the names that a top-level statement binds, those in its branches included."""
    if isinstance(statement, _DEFINING):
        return [statement.name]
    found = [name for name, _ in _imports(statement)]
    for node in ast.walk(statement):
        if isinstance(node, _DEFINING):
            found.append(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.append(node.id)
    return list(dict.fromkeys(found))


def _is_for_types(statement: ast.stmt) -> bool:
    """Tell whether a statement is only for annotations: `if TYPE_CHECKING:` without `else`."""
    if not isinstance(statement, ast.If) or statement.orelse:
        return False
    return isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING"


def _imports(statement: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the names that a statement imports from this package, each with the dotted name that it stands for."""
    for node in ast.walk(statement):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, "relative imports are not followed"
                name, dotted = alias.asname or alias.name, f"{node.module}.{alias.name}"
            else:  # without `as`, the name bound is that of the top package
                package = alias.name.split(".")[0]
                name, dotted = alias.asname or package, alias.name if alias.asname else package
            if dotted.split(".")[0] == ROOT.name:
                yield name, dotted


def _text(statements: list[ast.stmt]) -> _Text:
    nodes = [_Bare().visit(statement) for statement in statements]
    mentions = {name for node in nodes for name in _mentions(node)}
    imports = dict(pair for node in nodes for pair in _imports(node))
    mentions |= imports.keys()
    return _Text(hashlib.sha256(repr(_canonical(nodes)).encode()).digest(), frozenset(mentions), imports)


class _Bare(ast.NodeTransformer):
    """Removes annotations."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        """Remove an argument's annotation."""
        return ast.arg(node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Remove a function's return annotation."""
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Remove the annotation of a variable or field."""
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def _mentions(tree: ast.AST) -> Iterator[str]:
    """Yield the names in a tree, each with the attributes accessed on it."""
    if isinstance(tree, ast.Attribute):
        parts: list[str] = []
        node: ast.expr = tree
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            yield ".".join((node.id, *reversed(parts)))
            return
        yield from _mentions(node)
        return
    if isinstance(tree, ast.Name):
        yield tree.id
    for child in ast.iter_child_nodes(tree):
        yield from _mentions(child)


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
