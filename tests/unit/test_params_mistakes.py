"""A mistake in params.yaml is told once, with its line and the nearest word; numbers are read as they are meant."""

import time
from pathlib import Path
from typing import Any

import pytest
from params_file import ALIASED, FILES, TEXT, Mistakes, changed, error_of, load, plain

from spn.config import Params, load_params, params_schema

TYPOS = {
    "a key of a stage": ("    slices: rest", "    slice: rest", "stages.rest_high.slice: ", "slices"),
    "a key of defaults": (
        "learning_rate",
        "lerning_rate",
        "defaults.training.optimiser.lerning_rate: ",
        "learning_rate",
    ),
    "a key of data": ("validation: 180", "validaton: 180", "data.validaton: ", "validation"),
    "a section": ("\nsampling:", "\nsamplin:", "samplin: ", "sampling"),
    "defaults": ("defaults:", "default:", "default: ", "defaults"),
    "a family": ("family: spn", "family: spnn", "defaults.model.family: ", "spn"),
    "a source": ("source: digits", "source: digit", "data.source: ", "digits"),
    "an optimiser": ("name: adamw", "name: adam", "defaults.training.optimiser.name: ", "adamw"),
    "a choice": ("slices: first", "slices: frist", "stages.first_high.slices: ", "first"),
    "a schedule": ("schedule: cosine", "schedule: cosin", "defaults.training.schedule: ", "cosine"),
    "a stage of a chain": ("stages: [subscale]", "stages: [subscal]", "chains.subscale.stages: ", "subscale"),
}


@pytest.mark.parametrize("name", TYPOS)
def test_a_typo_is_told_once_with_its_line_and_the_nearest_word(name: str, tmp_path: Path) -> None:
    right, wrong, key, nearest = TYPOS[name]
    text = TEXT.replace(right, wrong, 1)
    pairs = zip(TEXT.splitlines(), text.splitlines(), strict=True)
    (line,) = (number for number, (before, after) in enumerate(pairs, 1) if before != after)
    message = error_of(tmp_path, text)
    assert message.startswith(key)
    assert message.endswith(f"; did you mean {nearest}? (line {line})")
    assert message.count("line ") == 1


def test_a_stage_of_no_chain_is_asked_about_too(tmp_path: Path) -> None:
    message = error_of(tmp_path, changed({"chains.depth.temperature": {"depth_hihg": 0.9}}))
    assert message.endswith("got depth_hihg; did you mean depth_high? (line 1)")


def test_a_key_like_no_other_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    text = TEXT.replace("\nsampling:", "\nxyz: 1\nsampling:")
    line = text.splitlines().index("xyz: 1") + 1
    message = error_of(tmp_path, text)
    known = "seed, defaults, data, first_stages, schedules, stages, chains, sampling, completion, codec, export"
    assert message == f"xyz: unknown key; expected one of {known} (line {line})"


def test_a_typo_that_aliases_repeat_is_told_once(tmp_path: Path) -> None:
    message = error_of(tmp_path, ALIASED.replace("learning_rate", "learning_rat"))
    assert message == "stages.high.training.optimiser.learning_rat: unknown key; did you mean learning_rate? (line 12)"
    assert error_of(tmp_path, ALIASED.replace("heads: 2", "heads: x")).count("line 8") == 1


def test_the_line_of_what_is_missing_is_that_of_its_section(tmp_path: Path) -> None:
    text = TEXT.replace("    heads: 2\n", "", 1)
    line = next(number for number, content in enumerate(text.splitlines(), 1) if content == "  model:")
    assert error_of(tmp_path, text) == f"defaults.model.heads: missing (line {line})"


def test_several_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    params = plain()
    for stage in params["stages"].values():
        stage["training"]["steps"] = 0
    message = error_of(tmp_path, params | {"seed": -1})
    assert message.count("Input should be greater") == 4
    assert message.endswith(f"; and {len(params['stages']) + 1 - 4} more")


def number(value: str, key: str, folder: Path) -> Any:
    """Load a file with a number written in a certain way, and return what is read."""
    found: Any = load(folder, TEXT.replace(key, f"{key.split(':')[0]}: {value}", 1)).model_dump()
    return found


@pytest.mark.parametrize(("value", "steps"), [("1e3", 1000), ("1_000", 1000), ("1000.0", 1000), ("1.5e3", 1500)])
def test_a_whole_number_is_read_however_it_is_written(value: str, steps: int, tmp_path: Path) -> None:
    found = number(value, "steps: 900", tmp_path)["stages"]["subscale"]["training"]["steps"]
    assert found == steps
    assert type(found) is int


@pytest.mark.parametrize("value", ["1e-3", "1.0e-3", "1E-3", "0.001", "1_0e-4"])
def test_a_fraction_is_read_however_it_is_written(value: str, tmp_path: Path) -> None:
    found = number(value, "learning_rate: 0.005", tmp_path)["stages"]["low"]["training"]["optimiser"]
    assert found["learning_rate"] == 0.001


@pytest.mark.parametrize("value", ["true", '"3"', "'1e3'", "1.5", "1e-3", ".inf", ".nan", "1e400", "1e12", "[3]", ""])
def test_what_is_no_whole_number_is_refused(value: str, tmp_path: Path) -> None:
    assert error_of(tmp_path, TEXT.replace("steps: 900", f"steps: {value}")).startswith("defaults.training.steps: ")


PHOTOS = {"source": "photos", "name": "p", "bits": 5, "size": 16, "stride": 8, "validation": 0.1, "test": 0.1}
CIFAR10 = {"source": "cifar10", "name": "c", "bits": 5, "validation": 5000}
MNIST = {"source": "mnist", "name": "m", "bits": 5, "validation": 5000}
FOLDER = {"source": "folder", "name": "f", "bits": 5, "size": 8, "channels": 1, "fit": "crop", "filter": "box"}
BEYOND: Mistakes = {
    "test of all images": (
        {"data.test": 3600},
        "data.test: expected fewer than the 1617 images left in digits, got 3600",
    ),
    "validation of all images": (
        {"data.validation": 1797},
        "data.validation: expected fewer than the 1797 images left in digits, got 1797",
    ),
    "nothing left to train on": (
        {"data.validation": 1000, "data.test": 797},
        "data.test: expected fewer than the 797 images left in digits, got 797",
    ),
    "limit of test": (
        {"data.limit": {"test": 361}},
        "data.limit.test: expected at most the 360 images of the split, got 361",
    ),
    "limit of training": (
        {"data.limit": {"train": 1258}},
        "data.limit.train: expected at most the 1257 images of the split, got 1258",
    ),
    "cifar10": (
        {"data": CIFAR10 | {"validation": 50_000}},
        "data.validation: expected fewer than the 50000 images left in cifar10, got 50000",
    ),
    "limit of cifar10": (
        {"data": CIFAR10 | {"limit": {"test": 10_001}}},
        "data.limit.test: expected at most the 10000 images of the split, got 10001",
    ),
    "mnist": (
        {"data": MNIST | {"validation": 60_000}},
        "data.validation: expected fewer than the 60000 images left in mnist, got 60000",
    ),
    "photos": (
        {"data": PHOTOS | {"size": 65}},
        "data.size: expected at most the validation band of 427x64 pixels, got 65",
    ),
    "photos without training": (
        {"data": PHOTOS | {"validation": 0.49, "test": 0.49}},
        "data.size: expected at most the train band of 427x12 pixels, got 16",
    ),
    "limit of photos": (
        {"data": PHOTOS | {"limit": {"test": 729}}},
        "data.limit.test: expected at most the 728 images of the split, got 729",
    ),
    "limit of a folder": (
        {"data": FOLDER | {"validation": 5, "limit": {"validation": 6}}},
        "data.limit.validation: expected at most the 5 images of the split, got 6",
    ),
    "seed": ({"seed": -1}, "seed: Input should be greater than or equal to 0, got -1"),
    "large seed": ({"seed": 1 << 32}, "seed: Input should be less than 4294967296"),
    "seed of sampling": ({"sampling.seed": -1}, "sampling.seed: Input should be greater than or equal to 0, got -1"),
    "seed of splits": ({"data.split_seed": -1}, "data.split_seed: Input should be greater than or equal to 0, got -1"),
    "samples without end": (
        {"sampling.num_images": 10**10},
        "sampling.num_images: Input should be less than or equal to",
    ),
    "steps without end": (
        {"stages.low.training.steps": 10**30},
        "stages.low.training.steps: Input should be less than",
    ),
}


@pytest.mark.parametrize("name", BEYOND)
def test_more_than_there_is_is_refused_when_the_file_is_read(name: str, tmp_path: Path) -> None:
    changes, start = BEYOND[name]
    assert error_of(tmp_path, changed(changes)).startswith(start)


@pytest.mark.parametrize(
    "changes", [{"data.validation": 1000, "data.test": 796}, {"data.limit": {"test": 360, "train": 1257}}]
)
def test_as_many_as_there_are_is_accepted(changes: dict[str, object], tmp_path: Path) -> None:
    assert isinstance(load(tmp_path, changed(changes)), Params)


HOSTILE = {
    "sequences": "[" * 99_000,
    "mappings": "{" * 99_000,
    "blocks": "- " * 49_000,
    "keys": "? " * 49_000,
    "both": "{a: [" * 19_000,
    "deep blocks": "\n".join(" " * depth + "a:" for depth in range(440)),
    "a large file": "a" * 10_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_nested_without_end_is_refused_in_a_moment(name: str, tmp_path: Path) -> None:
    started = time.process_time()
    assert "expected at most" in error_of(tmp_path, HOSTILE[name])
    assert time.process_time() - started < 2


def test_every_key_of_the_schema_has_a_description() -> None:
    schema = params_schema()
    sections = {"params.yaml": schema} | schema["$defs"]
    assert {"SpnSection", "AdamW", "DigitsData", "Limit", "ChainSection"} <= set(sections)
    for name, section in sections.items():
        assert section["description"], name
        for key, value in section["properties"].items():
            assert value.get("description"), f"{name}.{key}"


def test_shipped_files_are_read_in_a_moment() -> None:
    started = time.process_time()
    for path in FILES:
        load_params(path)
    assert time.process_time() - started < 5


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    name = 101 * "n"
    assert error_of(tmp_path, changed({f"chains.{name}": {"stages": ["raster"]}})).startswith(f"chains.{name}")
