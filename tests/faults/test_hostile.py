"""Files made to harm: nothing is executed, nothing written elsewhere, memory bounded, and one line names the file.

Pickles in CIFAR-10 batches and arrays of objects are in test_sources_cifar10 and test_sources_arrays, pictures that
claim any size also in test_sources_folder, links in tar archives in test_sources_cifar10.
"""

import copy
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from bombs import BOMBS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from params_file import ALIASED, as_written, dotted_keys, error_of, load, plain

from spn.checkpoint import load_tensors, load_weights
from spn.config import InputError, Params
from spn.notes import read_tensor_notes

NAMED = {"stages", "chains", "schedules", "first_stages"}
"""Sections of params.yaml whose keys are names."""
MEGABYTES = 1024
"""Most memory that preprocess may take for any of the bombs; 700 are taken, of which 300 by the libraries."""
FILES = {"zip": "set.zip", "png": "set.zip", "npz": "train.npz", "gz": "-ubyte.gz", "tar": "cifar-10-python.tar.gz"}


@pytest.mark.slow
def test_bombs_take_little_memory_and_write_nothing(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    command = [sys.executable, str(Path(__file__).parents[1] / "helpers/bombs.py"), str(tmp_path / "inside")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr}"
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [outcome["name"] for outcome in outcomes] == list(BOMBS)
    for outcome in outcomes:
        assert outcome["status"] == 2, outcome
        assert len(outcome["said"]) == 1, outcome
        assert FILES[outcome["name"].split(",")[0]] in outcome["said"][0], outcome
        assert not outcome["written"], outcome
        assert outcome["megabytes"] < MEGABYTES, outcome


class Hostile:
    """Pickles to a command, as an attacker would have it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def header(content: object) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text


CHECKPOINTS = {
    "header of exabytes": struct.pack("<Q", 1 << 60) + b"{}",
    "header of megabytes": struct.pack("<Q", 99_000_000) + b"{}",
    "tensor of exabytes": header({"a": {"dtype": "F32", "shape": [1 << 58], "data_offsets": [0, 1 << 60]}}),
    "tensor of more than can be counted": header(
        {"a": {"dtype": "F32", "shape": [1 << 62] * 3, "data_offsets": [0, 4]}}
    ),
    "tensor before the file": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
    "notes without end": header({"__metadata__": {"notes": "[" * 100_000}}),
    "notes that are no mapping": header({"__metadata__": {"notes": "[1, 2]"}}),
    "notes without a seal": header({"__metadata__": {"notes": '{"recipe": {}}'}}),
    "header without end": header(b"[" * 100_000),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_is_none_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(CHECKPOINTS[name])
    for read in (read_tensor_notes, load_tensors):
        with pytest.raises(InputError, match=rf"^{path}: expected [^\n]*; delete it to train again$"):
            read(path)


def test_a_pickled_checkpoint_is_not_executed(tmp_path: Path) -> None:
    path, marker = tmp_path / "checkpoint.safetensors", tmp_path / "executed"
    torch.save({"weight": Hostile(marker)}, path)
    with pytest.raises(InputError, match=rf"^{path}: expected a whole safetensors checkpoint[^\n]*$"):
        load_weights(path, {})
    assert not marker.exists()


def kind_of(key: str) -> tuple[str, ...]:
    """Return what a key has in common with those of other stages, chains and schedules, which are read alike."""
    section, *others = key.split(".")
    if section not in NAMED or not others:
        return (key,)
    family = PLAIN["stages"][others[0]]["model"]["family"] if section == "stages" else ""
    return (section, family, *others[1:])


PLAIN = plain()
WRITTEN = as_written()
KEYS = sorted({kind_of(key): key for key in (*dotted_keys(PLAIN), *dotted_keys(WRITTEN))}.values())
"""One key of each kind."""
OPTIONAL = {"clip_norm", "codec", "codes", "completion", "diffusion"}
"""Keys of params.yaml whose value may be null."""

TYPES: dict[type, st.SearchStrategy[Any]] = {
    str: st.text("abc 1.", max_size=5),
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(0.1, 0.9),
    list: st.lists(st.integers(), min_size=1, max_size=4),
    dict: st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(), min_size=1, max_size=2),
    type(None): st.none(),
}


def value_at(key: str, params: dict[str, Any]) -> Any:
    value: Any = params
    for name in key.split(".") if key else []:
        value = value[name]
    return value


def base(key: str) -> dict[str, Any]:
    """Return params.yaml with complete stages, or for a key of `defaults` as it is written."""
    return WRITTEN if key.startswith("defaults") else PLAIN


def wrong_values(key: str) -> st.SearchStrategy[Any]:
    """Draw values of other types than the value of params.yaml has; whole numbers are numbers."""
    value = value_at(key, base(key))
    right = {type(value)} | ({int} if isinstance(value, float) else set())
    allowed = right | ({type(None)} if key.split(".")[-1] in OPTIONAL else set())
    return st.one_of([values for kind, values in TYPES.items() if kind not in allowed])


def with_value(key: str, value: Any) -> dict[str, Any]:
    """Put a value at a key of params.yaml, and leave out the stages that it is not in, which take time to read."""
    section, name = [*key.split("."), ""][:2]
    stage = name if section == "stages" and name else "raster"
    whole = base(key)
    params = copy.deepcopy(whole | {"stages": {stage: whole["stages"][stage]}})
    *path, last = key.split(".")
    value_at(".".join(path), params)[last] = value
    return params


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
@given(data=st.data())
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_wrong_type_is_refused_in_one_line_with_its_key(key: str, data: st.DataObject, tmp_path: Path) -> None:
    message = error_of(tmp_path, with_value(key, data.draw(wrong_values(key))))
    named = message.partition(":")[0]
    assert f"{named}.".startswith(f"{key}.") or f"{key}.".startswith(f"{named}."), message


def nested_aliases(line: str, levels: int) -> str:
    """Write lines each of which names the line before nine times."""
    lines = [line.format(level=level, before=", ".join([f"*a{level - 1}"] * 9)) for level in range(1, levels)]
    return "\n".join(["a0: &a0 {k0: v}", *lines, ""])


@pytest.mark.parametrize(
    "line", ["a{level}: &a{level} [{before}]", "a{level}: &a{level} {{<<: [{before}], k: {level}}}"]
)
def test_a_few_lines_of_aliases_cannot_take_gigabytes(line: str, tmp_path: Path) -> None:
    started = time.process_time()
    message = error_of(tmp_path, nested_aliases(line, levels=40))
    assert message == "not valid YAML: expected at most 100000 values, got more by aliases of aliases"
    # Written out, these are more values than any machine holds.
    assert time.process_time() - started < 60


def test_aliases_that_stand_for_little_are_read(tmp_path: Path) -> None:
    assert isinstance(load(tmp_path, ALIASED), Params)
