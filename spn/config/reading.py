"""Reads params.yaml as plain values, and finds the line of each key."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from spn.config.errors import InputError

KeyPath: TypeAlias = tuple[str, ...]
"""The parts of a dotted key."""

MAX_BYTES = 100_000
"""Thirty times the largest file of presets/; parsing this much takes about a second."""

MAX_DEPTH = 50
"""Maximum nesting of sections; the parser's time grows with its square."""

MAX_VALUES = 100_000
"""Maximum number of values with aliases expanded; a few lines of nested aliases can stand for any number."""

TOLD = "SPN_TOLD_OF_ALIASES"
"""Environment variable with the path of the file whose aliases this process or its parent has reported."""


@dataclass(frozen=True)
class Document:
    """The values of a file as JSON, and the YAML nodes that they come from."""

    values: Any
    root: Node | None
    alias_line: int | None = None
    """The line of the first alias, if there is one."""

    def line(self, path: KeyPath) -> int | None:
        """Return the line, from 1, of the key at `path`, or of the innermost enclosing key that exists."""
        keys, _ = self._nodes(path)
        return keys[-1].start_mark.line + 1 if keys else None

    def place(self, path: KeyPath) -> tuple[object, ...]:
        """Return an identity of the place of the key at `path`, equal for all paths that aliases lead to it."""
        keys, inner = self._nodes(path)
        node = keys[-1] if keys and len(keys) == len(path) else inner
        return id(node), *path[len(keys) :]

    def _nodes(self, path: KeyPath) -> tuple[list[Node], Node | None]:
        """Follow `path` as far as it exists; return the nodes of its keys, and the node of the last value."""
        keys: list[Node] = []
        node = self.root
        for part in path:
            if isinstance(node, SequenceNode) and part.isdecimal() and int(part) < len(node.value):
                node = node.value[int(part)]
                keys.append(node)
                continue
            # Merged keys come first, and later ones win.
            pairs = reversed(node.value) if isinstance(node, MappingNode) else iter(())
            found = next(((key, value) for key, value in pairs if str(key.value) == part), None)
            if found is None:
                break
            keys.append(found[0])
            node = found[1]
        return keys, node


def read_document(path: Path) -> Document:
    """Read a params.yaml; raise InputError with one line that names the file if it is unreadable or not valid."""
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe could block for ever
        raise InputError(f"{path}: expected a readable params file, got something else")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError(f"{path}: expected at most {MAX_BYTES} bytes of parameters, got more")
        return parse_document(path, content.decode())
    except OSError as error:
        raise InputError(f"{path}: expected a readable params file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error


def parse_document(path: Path, text: str) -> Document:
    """Parse the text of a params.yaml; `path` names it in the InputError for text that is not valid."""
    try:
        alias_line = _check_size(text)
        yaml = YAML(typ="safe", pure=True)
        root = yaml.compose(text)
        raw = None if root is None else yaml.constructor.construct_document(root)
    except (YAMLError, ValueError, LookupError, RecursionError) as error:
        # The constructors of dates, numbers and booleans raise errors of their own.
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    try:
        values = json.loads(json.dumps(raw, default=str), object_pairs_hook=_section)
        return Document(values, root, alias_line)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a mapping of plain values: {error}") from error


def _section(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a section; raise ValueError for keys that are different in YAML, but not as text, such as 1 and '1'."""
    section = dict(pairs)
    if len(section) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"two keys {next(key for key in keys if keys.count(key) > 1)} in one section")
    return section


def tell_of_aliases(path: Path, document: Document) -> None:
    """Warn on stderr of what DVC does to a file with aliases; once, not again in child processes."""
    name = str(path.resolve())
    if document.alias_line is None or os.environ.get(TOLD) == name:
        return
    os.environ[TOLD] = name
    print(
        f"{path}: note: the alias on line {document.alias_line} makes `dvc exp run -S` change every stage that shares "
        "its anchor, and rewrite the file; write the shared keys under `defaults` instead",
        file=sys.stderr,
    )


def _check_size(text: str) -> int | None:
    """Return the line of the first alias; None if there is none.

    Raises ValueError for values nested too deeply, or for too many values with aliases expanded.
    """
    alias_line: int | None = None
    sizes: dict[str, int] = {}
    collections: list[tuple[str | None, int]] = [(None, 0)]
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, CollectionStartEvent):
            collections.append((event.anchor, 1))
            if len(collections) > MAX_DEPTH:
                raise ValueError(f"expected at most {MAX_DEPTH} sections inside each other, got more")
            continue
        if isinstance(event, CollectionEndEvent):
            anchor, size = collections.pop()
            sizes |= {anchor: size} if anchor else {}
        elif isinstance(event, AliasEvent):
            size = sizes.get(event.anchor, 1)
            alias_line = alias_line or event.start_mark.line + 1
        else:
            size = 1
        outer, total = collections.pop()
        if total + size > MAX_VALUES:
            raise ValueError(f"expected at most {MAX_VALUES} values, got more by aliases of aliases")
        collections.append((outer, total + size))
    return alias_line
