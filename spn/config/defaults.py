"""`defaults` and `trials`: keys that sections share, merged before the stages are validated.

`defaults` has any keys of a stage. A stage states what differs, and the two are merged key by key:

- A key that only one of them has is kept; if both have it, the stage's value wins, a list as a whole.
- Two sections under one key are merged in the same way.
- A section of several kinds (`model` by its `family`, `optimiser` by its `name`) is merged only if the kinds are the
  same. A stage of another kind takes nothing from it, so keys of one family never reach another.
- If `defaults` names no kind, its keys must suit the kinds of all stages.

A stage's `trials` are changes of its `training`, and every one of them is merged with that section in the same way.
"""

from typing import Any

from spn.config.errors import InputError
from spn.config.reading import MAX_VALUES, KeyPath

TAGS = {"model": "family", "optimiser": "name"}
"""Sections of several kinds, and the key that names the kind."""


def resolve(raw: Any) -> Any:
    """Return the values of params.yaml without `defaults`, with every stage and every trial complete.

    Raises InputError if `defaults` is not a section, or if merging would make too many values.
    """
    whole = _resolve_defaults(raw)
    stages = whole.get("stages") if isinstance(whole, dict) else None
    if not isinstance(stages, dict):
        return whole
    if sum(map(_num_values_of_trials, stages.values())) > MAX_VALUES:
        raise InputError(f"stages: expected at most {MAX_VALUES} values in all trials, got more")
    return whole | {"stages": {name: _with_complete_trials(stage) for name, stage in stages.items()}}


def _resolve_defaults(raw: Any) -> Any:
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


def _trials_of(stage: Any) -> list[Any]:
    """Return the trials of a stage; none if there is nothing to merge them with."""
    if not isinstance(stage, dict) or not isinstance(stage.get("training"), dict):
        return []
    return stage["trials"] if isinstance(stage.get("trials"), list) else []


def _with_complete_trials(stage: Any) -> Any:
    trials = _trials_of(stage)
    return stage | {"trials": [_merge(stage["training"], trial) for trial in trials]} if trials else stage


def _num_values_of_trials(stage: Any) -> int:
    trials = _trials_of(stage)
    return len(trials) * _num_values(stage["training"]) if trials else 0


def written_at(raw: Any, path: KeyPath) -> KeyPath:
    """Return the path under which a key of a complete stage is written: in the stage, or in `defaults`.

    A key that a trial takes from the stage's `training` is written there. A key missing from a section that only
    `defaults` has is reported there.
    """
    if path[:1] != ("stages",) or len(path) < 3:
        return path
    defaults, stage = raw.get("defaults"), raw["stages"][path[1]]
    whole = _merge(defaults, stage)
    if path[2] == "trials" and len(path) > 4 and (trials := _trials_of(whole)):
        trial = trials[int(path[3])]
        if _is_shared({"training": whole["training"]}, {"training": trial}, ("training", *path[4:])):
            path = (*path[:2], "training", *path[4:])
    return ("defaults", *path[2:]) if _is_shared(defaults, stage, path[2:]) else path


def _is_shared(shared: Any, stated: Any, path: KeyPath) -> bool:
    """Tell whether the key at `path` of two merged sections is written in, or missing from, the shared one alone."""
    tag = ""
    for depth, part in enumerate(path):
        if not _same_kind(shared, stated, tag):
            return False
        if part not in stated:
            return part in shared or depth > 0
        if part not in shared:
            return False
        shared, stated, tag = shared[part], stated[part], TAGS.get(part, "")
    return False


def check_used(raw: Any) -> None:
    """Raise InputError for a section of `defaults` that no stage uses."""
    if isinstance(raw, dict) and "defaults" in raw:
        _check_used(raw["defaults"], list(raw["stages"].values()), "defaults", "")


def _check_used(defaults: Any, stages: list[Any], key: str, tag: str) -> None:
    if not isinstance(defaults, dict):
        return
    stages = [stage for stage in stages if _same_kind(defaults, stage, tag)]
    if not stages:
        expected = f"a {tag} that a stage has, got {defaults[tag]}" if tag in defaults else "a section that a stage has"
        raise InputError(f"{key}: expected {expected}, and nothing uses these keys")
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
