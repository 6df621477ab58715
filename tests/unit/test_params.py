"""params.yaml: what is accepted, and what a mistake is told."""

import difflib
import json
from pathlib import Path

import pytest
from params_file import FILES, GONE, ROOT, Mistakes, changed, error_of, load, plain

from spn.config import InputError, load_params, params_schema


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_is_valid(path: Path) -> None:
    assert load_params(path).plans


def test_params_yaml_and_its_chains_are_the_documented_ones() -> None:
    assert FILES[0] == ROOT / "params.yaml"
    params = load_params(FILES[0])
    assert list(params.plans) == ["raster", "subscale", "depth", "multidimensional", "imagebart"]
    assert set(params.stage_plans) == set(params.stages)
    assert params.data.shape == (8, 8, 1)


def test_plans_of_a_chain_know_what_comes_before(tmp_path: Path) -> None:
    first, rest, low = load(tmp_path, plain()).plans["multidimensional"]
    assert first.known == ((0, 0), (0, 0))
    assert rest.known == ((0b11000, 0), (0, 0))
    assert low.known == ((0b11000,) * 2,) * 2
    assert low.cuts == (0, 2, 5)
    assert low.num_levels == 8


MISTAKES: Mistakes = {
    "unknown key at the top": ({"sede": 1}, "sede: "),
    "unknown key in data": ({"data.bit": 5}, "data.bit: "),
    "unknown key in a stage": ({"stages.low.slice": "all"}, "stages.low.slice: "),
    "unknown key in a nested union": (
        {"stages.low.training.optimiser.momentum": 0.5},
        "stages.low.training.optimiser.momentum: ",
    ),
    "unknown source": ({"data.source": "digit"}, "data.source: "),
    "unknown family": ({"stages.low.model.family": "pixelcnn"}, "stages.low.model.family: "),
    "unknown optimiser": ({"stages.low.training.optimiser.name": "sgd"}, "stages.low.training.optimiser.name: "),
    "missing key": ({"stages.low.model.heads": GONE}, "stages.low.model.heads: "),
    "missing section": ({"sampling": GONE}, "sampling: "),
    "missing tag of a union": ({"data.source": GONE}, "data.source: "),
    "string for a number": ({"stages.low.model.width": "64"}, "stages.low.model.width: "),
    "fraction for a count": ({"stages.low.training.steps": 10.5}, "stages.low.training.steps: "),
    "flag for a number": ({"stages.low.model.dropout": True}, "stages.low.model.dropout: "),
    "nothing for a number": ({"sampling.num_images": None}, "sampling.num_images: "),
    "scalar for a section": ({"stages.low.model": 3}, "stages.low.model: "),
    "list for a mapping": ({"stages": []}, "stages: "),
    "no stages": ({"stages": {}}, "stages: "),
    "chain of no stage": ({"chains.raster.stages": []}, "chains.raster.stages: "),
    "out of range": ({"stages.low.model.dropout": 1.0}, "stages.low.model.dropout: "),
    "negative": ({"stages.low.training.clip_norm": -1.0}, "stages.low.training.clip_norm: "),
    "infinite": ({"stages.low.training.clip_norm": float("inf")}, "stages.low.training.clip_norm: "),
    "unknown choice": ({"stages.low.slices": "last"}, "stages.low.slices: "),
    "name that is no file name": ({"chains.a/b": {"stages": ["raster"]}}, "chains.a/b: "),
    "three ends of bits": ({"stages.low.bits": [0, 2, 5]}, "stages.low.bits: "),
    "no bits": ({"stages.low.bits": [5, 5]}, "stages.low: bits [5, 5] "),
    "negative bits": ({"stages.low.bits": [-1, 5]}, "stages.low.bits.0: "),
    "rest of one slice": ({"stages.raster.slices": "rest"}, "stages.raster: slices: "),
    "bits beyond data.bits": ({"stages.low.bits": [2, 6]}, "stages.low.bits: expected an end of at most data.bits = 5"),
    "scale factor that does not divide": ({"stages.low.scale_factor": 3}, "stages.low.scale_factor: "),
    "heads that do not divide": (
        {"stages.low.model.heads": 4, "stages.low.model.width": 6},
        "stages.low.model.width: expected a multiple of the 4 heads, got 6",
    ),
    "unknown stage in a chain": ({"chains.raster.stages": ["rastr"]}, "chains.raster.stages: "),
    "stage twice in a chain": ({"chains.raster.stages": ["raster"] * 2}, "chains.raster.stages: "),
    "cell left out": (
        {"chains.depth.stages": ["depth_high"]},
        "chains.depth.stages: the cell slice (0,0) of 1x1, bit 2 ",
    ),
    "cell covered twice": (
        {"chains.depth.stages": ["depth_high", "depth_low", "low"]},
        "chains.depth.stages: the cell slice (0,0) of 2x2, bit 2 is covered twice, by depth_low and by low",
    ),
    "temperature of another stage": ({"chains.raster.temperature": {"low": 0.9}}, "chains.raster.temperature: "),
    "temperature zero": ({"chains.raster.temperature": {"raster": 0.0}}, "chains.raster.temperature.raster: "),
    "stage after other cells than elsewhere": (
        {"chains.backwards": {"stages": ["depth_low", "depth_high"]}},
        "chains.backwards.stages: depth_low ",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line_with_its_key(name: str, tmp_path: Path) -> None:
    changes, start = MISTAKES[name]
    assert error_of(tmp_path, changed(changes)).startswith(start)


def test_channels_must_share_the_width(tmp_path: Path) -> None:
    photos = {"source": "photos", "name": "p", "bits": 5, "size": 8, "stride": 8, "validation": 0.1, "test": 0.1}
    message = error_of(tmp_path, changed({"data": photos, "stages.raster.model.pixelcnn_width": 10}))
    assert message.startswith("stages.raster.model.pixelcnn_width: expected a multiple of the 3 channels")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.yaml"
    with pytest.raises(InputError, match=r"nowhere\.yaml: expected a readable params file: No such file"):
        load_params(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a readable params file"):
        load_params(tmp_path)


def test_a_stage_of_two_chains_is_one_stage(tmp_path: Path) -> None:
    other = plain()["stages"]["depth_low"]
    params = load(
        tmp_path,
        changed({"stages.other_low": other, "chains.other": {"stages": ["depth_high", "other_low"]}}),
    )
    assert params.plans["depth"][0] == params.plans["other"][0] == params.stage_plans["depth_high"]
    assert len(params.stage_plans) == len(plain()["stages"]) + 1


def test_scale_factors_may_be_mixed_in_a_chain(tmp_path: Path) -> None:
    params = load(
        tmp_path, changed({"chains.mixed": {"stages": ["depth_high", "low"]}, "chains.multidimensional": GONE})
    )
    high, low = params.plans["mixed"]
    assert (high.scale_factor, low.scale_factor) == (1, 2)
    assert low.known == ((0b11000,) * 2,) * 2


def test_params_are_frozen() -> None:
    params = load_params(FILES[0])
    with pytest.raises(ValueError, match="frozen"):
        params.seed = 2


def test_the_schema_is_current() -> None:
    path = ROOT / "params.schema.json"
    expected = json.dumps(params_schema(), indent=2) + "\n"
    diff = difflib.unified_diff(
        path.read_text().splitlines(), expected.splitlines(), path.name, "spn schema", lineterm=""
    )
    assert path.read_text() == expected, "\n".join(
        ["params.schema.json is stale; run: .venv/bin/spn schema > params.schema.json", *diff]
    )
