"""`defaults`: stages are completed by it, mistakes in it are told once, and DVC changes one thing at a time."""

import difflib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from params_file import (
    ALIASED,
    CODES,
    FILES,
    GONE,
    ROOT,
    WITHOUT_CODES,
    Mistakes,
    as_written,
    changed,
    error_of,
    load,
    plain,
)
from ruamel.yaml import YAML
from ruamel.yaml.events import AliasEvent, NodeEvent, ScalarEvent

from spn.config import load_params, params_schema


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_shipped_file_has_an_anchor_an_alias_or_a_merge(path: Path) -> None:
    for event in YAML(typ="safe", pure=True).parse(path.read_text()):
        line = f"line {event.start_mark.line + 1}"
        assert not isinstance(event, AliasEvent), line
        assert not (isinstance(event, NodeEvent) and event.anchor), line
        assert not (isinstance(event, ScalarEvent) and event.value == "<<"), line


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_with_defaults_is_the_file_with_complete_stages(path: Path, tmp_path: Path) -> None:
    params = load_params(path)
    complete = params.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert "defaults" not in complete
    assert load(tmp_path, complete) == params


SCHEMA = params_schema()


def test_the_schema_is_a_schema() -> None:
    jsonschema.validators.validator_for(SCHEMA).check_schema(SCHEMA)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_editors_accept_every_shipped_file(path: Path) -> None:
    content = YAML(typ="safe", pure=True).load(path)
    editor = jsonschema.validators.validator_for(SCHEMA)(SCHEMA)
    editor.validate(content)
    content["defaults"]["training"]["lerning_rate"] = 0.1
    with pytest.raises(jsonschema.ValidationError, match="lerning_rate"):
        editor.validate(content)
    assert path.read_text().startswith("# yaml-language-server: $schema=")


SPN = {"family": "spn", "width": 8, "heads": 2, "transformer_layers": 1, "pixelcnn_width": 8, "pixelcnn_layers": 1}


def merged(folder: Path, defaults: dict[str, Any], stage: dict[str, Any]) -> dict[str, Any]:
    """Return the stage that `defaults` and a stage make, with nothing that is not stated."""
    params = plain() | {"defaults": defaults, "stages": {"raster": stage}, "chains": {"raster": {"stages": ["raster"]}}}
    return load(folder, params).model_dump(mode="json", exclude_unset=True)["stages"]["raster"]


def test_sections_are_merged_key_by_key_and_lists_as_a_whole(tmp_path: Path) -> None:
    raster = plain()["stages"]["raster"]
    optimiser = {"name": "adamw", "learning_rate": 0.1, "betas": [0.1, 0.2]}
    training = raster["training"] | {"optimiser": optimiser, "clip_norm": 1.0}
    defaults = {"model": SPN, "training": training, "class_conditional": True, "bits": [0, 4]}
    stage = {"scale_factor": 1, "slices": "all", "bits": [0, 5], "model": {"width": 6}}
    stage["training"] = {"optimiser": {"betas": [0.3, 0.4]}, "clip_norm": None}
    found = merged(tmp_path, defaults, stage)
    assert found["bits"] == [0, 5]
    assert found["class_conditional"] is True
    assert found["model"] == SPN | {"width": 6}
    assert found["training"] == training | {"optimiser": optimiser | {"betas": [0.3, 0.4]}, "clip_norm": None}


def test_another_kind_of_section_takes_nothing(tmp_path: Path) -> None:
    raster = plain()["stages"]["raster"]
    defaults = {"model": SPN | {"dropout": 0.25}, "training": raster["training"]}
    other = {"family": "gated_pixelcnn", "width": 6, "layers": 1}
    rmsprop = {"name": "rmsprop", "learning_rate": 0.1}
    params = as_written() | {"defaults": defaults}
    cells = {"scale_factor": 1, "slices": "all", "bits": [0, 5]}
    params["stages"] = {"a": cells, "b": cells | {"model": other, "training": {"optimiser": rmsprop}}}
    params["chains"] = {name: {"stages": [name]} for name in "ab"}
    stages = load(tmp_path, params).model_dump(mode="json", exclude_unset=True)["stages"]
    assert stages["a"]["model"] == SPN | {"dropout": 0.25}
    assert stages["b"]["model"] == other
    assert stages["b"]["training"] == raster["training"] | {"optimiser": rmsprop}


PIXELS = [name for name in plain()["stages"] if name not in CODES]

MISTAKES: Mistakes = {
    "no section": ({"defaults": 3}, "defaults: expected the keys of a stage, got 3"),
    "nothing": ({"defaults": None}, "defaults: expected the keys of a stage, got None"),
    "unknown key": ({"defaults.modle": {}}, "defaults.modle: unknown key; did you mean model?"),
    "unknown key in a section": (
        {"defaults.training.step": 3, "defaults.training.steps": GONE},
        "defaults.training.step: unknown key; did you mean steps?",
    ),
    "wrong value": ({"defaults.training.steps": 0}, "defaults.training.steps: Input should be greater than"),
    "wrong item": ({"defaults.training.optimiser.betas": [0.1, 2]}, "defaults.training.optimiser.betas.1: "),
    "missing key": ({"defaults.training.steps": GONE}, "defaults.training.steps: missing"),
    "unknown family": (
        {"defaults.model.family": "spm"},
        "defaults.model.family: expected one of gated_pixelcnn, imagebart, pixelcnn_pp, pixelsnail, spn, got spm; did",
    ),
    "no family": (WITHOUT_CODES | {"defaults.model.family": GONE}, "defaults.model.family: expected one of "),
    "what does not fit a stage": (
        {"defaults.model.heads": 3},
        "stages.raster.model.width: expected a multiple of the 3 heads, got 40 (defaults.model.width, line 1)",
    ),
    "a family that no stage has": (
        {f"stages.{name}.model": {"family": "gated_pixelcnn", "width": 4, "layers": 1} for name in plain()["stages"]},
        "defaults.model: expected a family that a stage has, got spn, and nothing uses these keys",
    ),
    "a section that every stage replaces": (
        {"defaults.diffusion": {"schedule": "even", "scale": 1}}
        | {f"stages.{name}.diffusion": None for name in plain()["stages"]},
        "defaults.diffusion: expected a section that a stage has, and nothing uses these keys",
    ),
    "key that suits one family and not another": (
        WITHOUT_CODES
        | {"defaults.model.family": GONE, "defaults.model.filters": 3}
        | {f"stages.{name}.model.family": "spn" for name in PIXELS if name != "raster"}
        | {"stages.raster.model": {"family": "spn"}},
        "defaults.model.filters: unknown key; expected one of ",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_defaults_is_told_once(name: str, tmp_path: Path) -> None:
    changes, start = MISTAKES[name]
    message = error_of(tmp_path, changed(changes, as_written()))
    assert message.startswith(start)
    assert message.count("(") == message.count("line 1)") == 1
    assert ";" not in message.removeprefix(start)


def test_defaults_in_many_stages_cannot_take_gigabytes(tmp_path: Path) -> None:
    params = as_written()
    params["defaults"]["model"] |= {f"k{index}": 1 for index in range(2000)}
    params["stages"] = {f"s{index}": {} for index in range(2000)}
    assert error_of(tmp_path, params).startswith("defaults: expected at most 100000 values in all stages, got more")


def test_a_file_with_aliases_is_read_with_one_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPN_TOLD_OF_ALIASES", "")
    params = load(tmp_path, ALIASED)
    assert [stage.training.steps for stage in params.stages.values()] == [9, 12]
    assert params == load(tmp_path, json.loads(json.dumps(YAML(typ="safe", pure=True).load(ALIASED))))
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith(
        f"{tmp_path / 'params.yaml'}: note: the alias on line 17 makes `dvc exp run -S` change every"
    )
    # Neither again here nor, as they inherit the environment, in the jobs that this process starts.
    load(tmp_path, ALIASED)
    assert capsys.readouterr().err == ""


def test_a_file_without_aliases_is_read_without_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    for path in FILES:
        load_params(path)
    assert capsys.readouterr().err == ""


def rewritten(path: Path, folder: Path, override: str) -> list[str]:
    """Let DVC change a copy of a file as `dvc exp run -S` does, and return the lines removed and added."""
    from dvc.utils.hydra import apply_overrides

    copy = folder / "params.yaml"
    copy.write_bytes(path.read_bytes())
    apply_overrides(copy, [override])
    diff = difflib.unified_diff(path.read_text().splitlines(), copy.read_text().splitlines(), lineterm="", n=0)
    return [line for line in diff if line[:1] in "+-" and line[:3] not in {"+++", "---"}]


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dvc_keeps_comments_and_layout(path: Path, tmp_path: Path) -> None:
    steps = load_params(path).model_dump()["stages"]
    assert rewritten(path, tmp_path, "sampling.seed=1") == []
    _, added = rewritten(path, tmp_path, "defaults.training.steps=12345")
    assert added == "+    steps: 12345"
    changed = load_params(tmp_path / "params.yaml").model_dump()["stages"]
    assert all(
        stage["training"]["steps"] in {12345, steps[name]["training"]["steps"]} for name, stage in changed.items()
    )
    first = next(iter(steps))
    lines = rewritten(path, tmp_path, f"++stages.{first}.training.steps=12345")
    assert len(lines) <= 4
    changed = load_params(tmp_path / "params.yaml").model_dump()["stages"]
    for training in (steps[first]["training"], *steps[first]["trials"]):
        training["steps"] = 12345
    assert changed == steps
