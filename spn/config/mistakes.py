"""Describes a mistake in params.yaml: its dotted key, what is wrong, the nearest known word, and the line."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from spn.config.defaults import written_at
from spn.config.reading import Document, KeyPath

SHOWN = 4
"""Maximum number of mistakes in one message."""

MISSING = {"missing", "union_tag_not_found"}

EXAMINED = 200
"""Maximum number of errors to look at: many stages may repeat a mistake, and a hostile file may have any number."""

ALL_SAID = MISSING | {"value_error", "extra_forbidden", "union_tag_invalid"}
"""Kinds of error whose message needs no actual value."""


def describe(error: ValidationError, document: Document, schema: dict[str, Any]) -> str:
    """Put the mistakes that pydantic found on one line, each once.

    `schema` is the JSON schema of the file. A misspelt key is one mistake, not an unknown and a missing key.
    """
    errors = error.errors()
    told: dict[tuple[object, ...], str] = {}
    misspelt: set[KeyPath] = set()
    # Unknown keys first: the keys that they were meant for are then not missing.
    for problem in sorted(errors[:EXAMINED], key=lambda problem: problem["type"] != "extra_forbidden"):
        keys, text, meant = _read_problem(problem, schema)
        if problem["type"] in MISSING and (keys in misspelt or (("defaults",) in misspelt and keys[0] == "stages")):
            continue
        if meant:
            misspelt.add((*keys[:-1], meant))
        place = written_at(document.values, keys)
        told.setdefault((document.place(place), text), f"{_dotted(place)}: {text}{_line(document, place)}")
    more = len(told) - SHOWN + max(0, len(errors) - EXAMINED)
    lines = [*list(told.values())[:SHOWN], *([f"and {more} more"] if more > 0 else [])]
    return " ".join("; ".join(lines).split())


def with_line(message: str, document: Document) -> str:
    """Append to a message that begins with a dotted key the line of that key."""
    keys = tuple(message.partition(": ")[0].split("."))
    place = written_at(document.values, keys)
    return message + _line(document, place, "" if place == keys else f"{_dotted(place)}, ")


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the nearest known word, or nothing if none is near."""
    near = _nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def _nearest(word: object, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(str(word)[:60], list(known), n=1)), None)


def _read_problem(problem: Any, schema: dict[str, Any]) -> tuple[KeyPath, str, str | None]:
    """Return the key, what is wrong with it, and for an unknown key the probable meaning, if any."""
    kind, text, context = problem["type"], problem["msg"].removeprefix("Value error, "), problem.get("ctx", {})
    keys, inside = _follow(schema, problem["loc"])
    meant = None
    if kind == "extra_forbidden":
        known = list(inside.get("properties", {}))
        meant = _nearest(keys[-1], known)
        text = "unknown key" + (f"; did you mean {meant}?" if meant else f"; expected one of {', '.join(known)}")
    elif kind == "missing":
        text = "missing"
    elif kind in {"union_tag_invalid", "union_tag_not_found"}:
        keys += (context["discriminator"].strip("'"),)
        known = list(inside["discriminator"]["mapping"])
        actual = "nothing" if kind == "union_tag_not_found" else context["tag"]
        text = f"expected one of {', '.join(known)}, got {actual}{did_you_mean(actual, known)}"
    if kind not in ALL_SAID:
        text += f", got {_short(problem['input'])}"
    if kind == "literal_error":
        text += did_you_mean(problem["input"], re.findall(r"'([^']*)'", context["expected"]))
    return keys, text, meant


def _follow(schema: dict[str, Any], location: tuple[str | int, ...]) -> tuple[KeyPath, dict[str, Any]]:
    """Follow pydantic's location through the schema; return the keys that the user typed, and the section's schema.

    The section is the one that holds the last key, or the one at the location itself if that is a section of several
    kinds. Locations contain names of kinds, which are not keys.
    """
    keys: list[str] = []
    node = holder = schema
    for part in location:
        if part == "[key]":
            continue
        if "discriminator" in node:
            node = _plain(schema, {"$ref": node["discriminator"]["mapping"].get(part, "")})
            holder = node
            continue
        keys.append(str(part))
        holder = node
        named = list(node.get("patternProperties", {}).values())
        items = node.get("items", {}) if isinstance(part, int) else {}
        node = _plain(schema, node.get("properties", {}).get(part) or (named[0] if named else items))
    return tuple(keys), node if "discriminator" in node else holder


def _plain(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Resolve a reference."""
    return schema["$defs"].get(node["$ref"].removeprefix("#/$defs/"), {}) if "$ref" in node else node


def _dotted(keys: KeyPath) -> str:
    return ".".join(keys) or "the whole file"


def _line(document: Document, place: KeyPath, before: str = "") -> str:
    line = document.line(place)
    return "" if line is None else f" ({before}line {line})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
