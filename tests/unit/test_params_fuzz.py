"""Files that are not valid YAML, or hold anything at all: one line, never a traceback."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from params_file import TEXT, changed, dotted_keys, error_of, load, plain

from spn.config import InputError, Params

BROKEN: dict[str, str | bytes] = {
    "syntax": TEXT.replace("stages: [raster]", "stages: [raster"),
    "tab": "seed: 1\n\tdata: 2",
    "duplicate key": TEXT.replace("seed: 1\n", "seed: 1\nseed: 2\n", 1),
    "unknown alias": TEXT.replace("seed: 1", "seed: *one"),
    "two documents": f"{TEXT}\n---\n{TEXT}",
    "tag of a python object": TEXT.replace("seed: 1", "seed: !!python/object/apply:os.getcwd []"),
    "unknown tag": TEXT.replace("seed: 1", "seed: !mine 1"),
    "impossible date": TEXT.replace("seed: 1", "seed: 2020-99-99"),
    "number that is none": TEXT.replace("seed: 1", "seed: !!int x"),
    "flag that is none": TEXT.replace("seed: 1", "seed: !!bool x"),
    "huge number": TEXT.replace("seed: 1", f"seed: {'9' * 5000}"),
    "endless nesting": "[" * 400,
    "not text": b"\xff\xfe\x00",
    "null character": "seed: \0",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_yaml_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    assert error_of(tmp_path, BROKEN[name]).startswith("not valid YAML: ")


@pytest.mark.parametrize("keys", ["1: {}, '1': {}", "'true': {}, true: {}"])
def test_keys_that_are_the_same_text_are_refused(keys: str, tmp_path: Path) -> None:
    told = error_of(tmp_path, TEXT.replace("\nstages:", f"\nother: {{{keys}}}\nstages:"))
    assert told.startswith("expected a mapping of plain values: two keys ")


@pytest.mark.parametrize("content", ["", "[1, 2]", "raster", "3", "null"])
def test_a_file_must_hold_a_mapping(content: str, tmp_path: Path) -> None:
    assert error_of(tmp_path, content).startswith("the whole file: ")


@pytest.mark.parametrize(
    "content", ["? [a, b]\n: 1", "a: &a [*a]", "a: !!set {b}", "a: 2020-01-01", '"a\\nb": 1', "1: 2", "a: .nan"]
)
def test_values_that_only_yaml_has_are_told_in_one_line(content: str, tmp_path: Path) -> None:
    assert error_of(tmp_path, f"{TEXT}\n{content}")


def params_or_message(folder: Path, content: dict[str, Any]) -> Params | str:
    try:
        return load(folder, content)
    except InputError as error:
        return str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["all", "raster"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.slow
@given(key=st.sampled_from(sorted(dotted_keys(plain()))), value=JSON, extra=st.none() | st.text(max_size=4))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_at_any_key_is_valid_or_told_in_one_line(
    key: str, value: object, extra: str | None, tmp_path: Path
) -> None:
    outcome = params_or_message(tmp_path, changed({key: value if extra is None else {extra: value}}))
    assert outcome.plans if isinstance(outcome, Params) else outcome.splitlines() == [outcome]


@given(text=st.text(max_size=40) | st.binary(max_size=40).map(lambda data: data.decode("latin-1")))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_told_in_one_line(text: str, tmp_path: Path) -> None:
    error_of(tmp_path, text)
