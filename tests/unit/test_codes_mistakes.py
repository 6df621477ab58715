"""Mistakes with codes, schedules, masks and classes: one line, exit status 2, and nothing is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiment import codes_params, write_params

from spn.cli import main

Edit = Callable[[dict[str, Any]], None]


def conditional() -> dict[str, Any]:
    raw = codes_params()
    for name in ("codes2", "codes1"):
        raw["stages"][name]["class_conditional"] = True
    return raw


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the chain `latent` is class-conditional, and nothing is trained."""
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, conditional())
    return tmp_path


def assert_refused(command: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Assert that a command ends with just this line, status 2, and the files that there were."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main(command.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert [each for each in said.err.splitlines() if "note: the alias" not in each] == [f"spn: error: {line}"]
    assert sorted(Path().rglob("*")) == before


def codebook_of_more_levels_than_files_hold(raw: dict[str, Any]) -> None:
    raw["first_stages"]["vq"]["codebook"] = 1024


def bits_beyond_the_codebook(raw: dict[str, Any]) -> None:
    raw["stages"]["codes1"]["bits"] = [0, 4]


def schedule_that_does_not_end_in_noise(raw: dict[str, Any]) -> None:
    raw["schedules"]["even"] = {"name": "listed", "shares": [0.5, 0.25]}


def scales_of_two_schedules(raw: dict[str, Any]) -> None:
    raw["schedules"]["other"] = {"name": "geometric", "scales": 2}
    raw["stages"]["codes1"]["diffusion"] = {"schedule": "other", "scale": 1}


def class_that_is_not_there(raw: dict[str, Any]) -> None:
    raw["sampling"]["class"] = 10


@pytest.mark.parametrize("verb", ["plan", "check", "train vq --data data/digits/S1.h5 --output out"])
@pytest.mark.parametrize(
    ("edit", "key", "message"),
    [
        (
            codebook_of_more_levels_than_files_hold,
            "first_stages.vq.codebook",
            "expected a power of two from 2 to 256, the most levels that files hold, got 1024",
        ),
        (
            bits_beyond_the_codebook,
            "stages.codes1.bits",
            "expected an end of at most the 3 bits of vq's codes, got 4",
        ),
        (
            schedule_that_does_not_end_in_noise,
            "schedules.even.shares",
            "expected a schedule that ends in noise, which keeps 0 of the codes, got 0.25",
        ),
        (
            scales_of_two_schedules,
            "chains.latent.stages",
            "expected scale 1 of schedule even after codes2, got codes1 of other",
        ),
        (class_that_is_not_there, "sampling.class", "expected one of the classes 0 to 9, got 10"),
    ],
    ids=lambda part: part.__name__ if callable(part) else "",
)
def test_what_params_yaml_cannot_mean_is_told_with_its_key(
    place: Path, verb: str, edit: Edit, key: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = conditional()
    edit(raw)
    path = write_params(place, raw)
    before = sorted(place.rglob("*"))
    assert main([*verb.split(), "--params", str(path)]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "note: the alias" not in line]
    assert said.startswith(f"spn: error: {path}: {key}")
    assert message in said
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("number", [10, -1])
def test_a_class_that_is_not_there_is_told_before_anything_is_read(
    place: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    files = "--data results/stages/vq/codes.h5 --checkpoint none.safetensors --output out"
    line = f"--class: expected one of the classes 0 to 9, got {number}"
    assert_refused(f"sample_stage latent codes2 {files} --class {number}", line, capsys)


def test_a_first_stage_is_trained_in_whole_batches(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "--micro-batch: expected a stage, got the first stage vq, whose losses are of whole batches"
    assert_refused("train vq --data data/digits/S1.h5 --output out --micro-batch 2", line, capsys)
