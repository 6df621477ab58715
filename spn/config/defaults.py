"""`defaults`: keys that stages share, merged into every stage before it is validated.

`defaults` has any keys of a stage. A stage states what differs, and the two are merged key by key:

- A key that only one of them has is kept; if both have it, the stage's value wins, a list as a whole.
- Two sections under one key are merged in the same way.
- A section of several kinds (`model` by its `family`, `optimiser` by its `name`) is merged only if the kinds are the
  same. A stage of another kind takes nothing from it, so keys of one family never reach another.
- If `defaults` names no kind, its keys must suit the kinds of all stages.
"""

from typing import Any

from spn.config.errors import InputError
from spn.config.reading import MAX_VALUES, KeyPath

TAGS = {"model": "family", "optimiser": "name"}
"""Sections of several kinds, and the key that names the kind."""


def resolve_defaults(raw: Any) -> Any:
    """Return the values of params.yaml with every stage completed from `defaults`, and without `defaults`.

    Raises InputError if `defaults` is not a section, or if merging would make too many values.
    """
    if not isinstance(raw, dict) or "defaults" not in raw:
        return raw
    defaults, stages = raw["defaults"], raw.get("stages")
    if not isinstance(defaults, dict):
        raise InputError(f"defaults: expected the keys of a stage, got {defaults!r:.60}")
    rest = {key: value for key, value in raw.items() if key != "defaults"}
    if not isinstance(stages, dict):
        return rest
    if _num_values(defaults) * len(stages) > MAX_VALUES:
        raise InputError(f"defaults: expected at most {MAX_VALUES} values in all stages, got more")
    return rest | {"stages": {name: _merge(defaults, stage) for name, stage in stages.items()}}


def written_at(raw: Any, path: KeyPath) -> KeyPath:
    """Return the path under which a key of a complete stage is written: in the stage, or in `defaults`.

    A key missing from a section that only `defaults` has is reported there.
    """
    if path[:1] != ("stages",) or len(path) < 3 or not isinstance(raw.get("defaults"), dict):
        return path
    defaults, stated, tag = raw["defaults"], raw["stages"][path[1]], ""
    for depth, part in enumerate(path[2:]):
        if not _same_kind(defaults, stated, tag):
            return path
        if part not in stated:
            return ("defaults", *path[2:]) if part in defaults or depth else path
        if part not in defaults:
            return path
        defaults, stated, tag = defaults[part], stated[part], TAGS.get(part, "")
    return path


def check_used(raw: Any) -> None:
    """Raise InputError for a section of `defaults` that no stage uses."""
    if isinstance(raw, dict) and "defaults" in raw:
        _check_used(raw["defaults"], list(raw["stages"].values()), "defaults", "")


def _check_used(defaults: Any, stages: list[Any], key: str, tag: str) -> None:
    if not isinstance(defaults, dict):
        return
    stages = [stage for stage in stages if _same_kind(defaults, stage, tag)]
    if not stages:
        raise InputError(f"{key}: expected a {tag} that a stage has, got {defaults[tag]}, and nothing uses these keys")
    for name, inner in defaults.items():
        _check_used(inner, [stage.get(name, {}) for stage in stages], f"{key}.{name}", TAGS.get(name, ""))


def _merge(defaults: Any, stated: Any, tag: str = "") -> Any:
    if not _same_kind(defaults, stated, tag):
        return stated
    shared = {
        key: _merge(defaults[key], value, TAGS.get(key, "")) if key in defaults else value
        for key, value in stated.items()
    }
    return defaults | shared


def _same_kind(defaults: Any, stated: Any, tag: str) -> bool:
    """Tell whether both are sections of the same kind."""
    if not isinstance(defaults, dict) or not isinstance(stated, dict):
        return False
    return not (tag in defaults and tag in stated) or defaults[tag] == stated[tag]


def _num_values(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(_num_values(item) for item in inner)
