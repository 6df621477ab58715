"""`spn init`: what it finds among pictures, what it writes for them, and mistakes, which leave nothing."""

import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_machine import SPEEDS
from PIL import Image

from spn.cli import main
from spn.config import FolderData, InputError, Params, load_params
from spn.files import WriteError
from spn.planning.cost import StepCost
from spn.planning.work import Work
from spn.tools import budget
from spn.tools.budget import NETWORKS, SHARES, Choice, choose, first_choice
from spn.tools.experiment_folder import REPOSITORY, new_folder, write_workflow
from spn.tools.params_text import num_images, params_text
from spn.tools.survey import Survey, survey


def draw(folder: Path, count: int, shape: tuple[int, ...] = (12, 16, 3), suffix: str = ".png") -> None:
    """Write pictures of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, levels in enumerate(np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)):
        Image.fromarray(levels).save(folder / f"{number}{suffix}")


def written(found: Survey, folder: Path, size: int = 8, choice: Choice | None = None, name: str = "mine") -> Params:
    """Return the params.yaml that is written for pictures, read back."""
    path = folder / "params.yaml"
    path.write_text(params_text(name, found, size, 30.0, choice or first_choice(size, num_images(found)["train"])))
    return load_params(path)


def folder_data(params: Params) -> FolderData:
    assert isinstance(params.data, FolderData)
    return params.data


def test_pictures_are_counted_and_those_that_cannot_be_used(tmp_path: Path) -> None:
    place = tmp_path / "pictures"
    draw(place, 5)
    draw(place / "more", 2, suffix=".jpg")
    draw(place / "small", 1, (4, 4))
    (place / "bad.png").write_bytes(b"nothing")
    found = survey(place, 8, processes=1)
    assert (found.num_pictures, dict(found.formats), found.smallest_side) == (9, {"PNG": 6, "JPEG": 2}, 4)
    assert found.bad.keys() == {"bad.png", "small/0.png"}
    assert found.num_images == {"train": 7}
    assert not found.is_grey
    assert not found.classes
    assert folder_data(written(found, tmp_path)).unreadable == "skip"


@pytest.mark.parametrize("name", ["2024", "1e3", "null", "true", "0x1F", "no"])
def test_a_name_that_yaml_takes_for_something_else_is_a_name(name: str, tmp_path: Path) -> None:
    draw(tmp_path / "pictures", 5)
    assert written(survey(tmp_path / "pictures", 8, processes=1), tmp_path, name=name).data.name == name


def test_a_zip_is_looked_at_as_its_folder(tmp_path: Path) -> None:
    place, archive = tmp_path / "pictures", tmp_path / "pictures.zip"
    draw(place, 4, (9, 9))
    with zipfile.ZipFile(archive, "w") as file:
        for path in place.iterdir():
            file.write(path, f"inside/{path.name}")
    in_folder, in_zip = survey(place, 8, 1), survey(archive, 8, 1)
    assert replace(in_zip, place=place) == in_folder
    assert in_folder.is_grey
    assert folder_data(written(in_folder, tmp_path)).channels == 1


@pytest.mark.parametrize(("count", "validation", "test"), [(3, 1, 1), (24, 2, 2), (400, 40, 40), (90_000, 200, 500)])
def test_splits_suit_few_and_many_pictures(count: int, validation: int, test: int, tmp_path: Path) -> None:
    found = Survey(tmp_path, count, {"PNG": count}, 64, False, {}, {"train": count}, {})
    assert num_images(found) == {"train": count - validation - test, "validation": validation, "test": test}
    data = folder_data(written(found, tmp_path))
    assert (data.validation, data.test, data.unreadable) == (validation, test, "refuse")


def test_folders_of_splits_and_classes_are_taken_for_what_they_are(tmp_path: Path) -> None:
    place = tmp_path / "pictures"
    for split, count in (("train", 20), ("test", 2)):
        for name in ("cat", "dog"):
            draw(place / split / name, count)
    found = survey(place, 8, processes=1)
    assert found.num_images == {"train": 40, "test": 4}
    assert found.classes == {"cat": 20, "dog": 20}
    params = written(found, tmp_path)
    data = folder_data(params)
    assert (data.num_classes, data.validation, data.test) == (2, 4, None)
    assert {stage.class_conditional for stage in params.stages.values()} == {True}


def test_classes_may_have_names_that_are_not_utf8(tmp_path: Path) -> None:
    for name in (b"b\xe9", b"cat"):
        draw(tmp_path / "pictures" / os.fsdecode(name), 40)
    path = tmp_path / "params.yaml"
    written(survey(tmp_path / "pictures", 8, processes=1), tmp_path)
    assert "# the sub-folders: b\\udce9, ..., cat\n" in path.read_text()


def test_folders_with_few_images_are_no_classes(tmp_path: Path) -> None:
    for name in ("monday", "tuesday"):
        draw(tmp_path / "pictures" / name, 3)
    found = survey(tmp_path / "pictures", 8, processes=1)
    assert found.classes == {"monday": 3, "tuesday": 3}
    params = written(found, tmp_path)
    assert folder_data(params).num_classes == 0
    assert not any(stage.class_conditional for stage in params.stages.values())


@pytest.mark.parametrize(("size", "factor"), [(8, 2), (64, 2), (128, 4), (256, 8)])
def test_slices_are_no_larger_than_the_papers(size: int, factor: int, tmp_path: Path) -> None:
    found = Survey(tmp_path, 100, {"PNG": 100}, 512, False, {}, {"train": 100}, {})
    params = written(found, tmp_path, size)
    assert {name: stage.scale_factor for name, stage in params.stages.items()} == {
        "raster": 1,
        **dict.fromkeys(("first_high", "rest_high", "low"), factor),
    }


def test_every_choice_has_a_comment(tmp_path: Path) -> None:
    found = Survey(tmp_path, 100, {"PNG": 100}, 512, False, {"a": "damaged"}, {"train": 100}, {})
    text = params_text("mine", found, 8, 30.0, first_choice(8, 80))
    for key in ("seed", "name", "fit", "width", "unreadable"):
        line = next(line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
        assert "#" in line, key
    for section in ("defaults", "stages", "chains", "  model", "  validation"):
        before, _ = text.split(f"\n{section}:", 1)
        assert before.splitlines()[-1].strip().startswith("#"), section
    assert "ours" in text
    assert max(map(len, text.splitlines())) <= 140


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Params, Choice]:
    """Networks whose steps cost as many FLOPs and bytes as the square of their widths; all else costs nothing."""

    def cost(stage: object, section: object, batch_size: int) -> StepCost:
        size = section.model.width**2  # type: ignore[attr-defined]
        return StepCost(Work(3 * size, 0, 0), Work(size, 0, 0), 0, 0, 0, 0, 0, peak=size)

    monkeypatch.setattr(budget, "step_cost", cost)
    found = Survey(tmp_path, 100, {"PNG": 100}, 512, False, {}, {"train": 100}, {})
    return written(found, tmp_path), first_choice(8, 80)


SECOND = SPEEDS.training["float32"].per_flop
"""Seconds of a FLOP of the made-up machine."""


def seconds_for(network: int, steps: int) -> float:
    """The time that a chain needs for the least stage to take this many steps, validations aside."""
    return steps * 3 * NETWORKS[network].width ** 2 * SECOND / min(SHARES.values())


def test_the_largest_network_with_enough_steps_is_taken(costs: tuple[Params, Choice]) -> None:
    taken = {}
    for steps in (10, 400, 700):
        choice = choose(*costs, SPEEDS, seconds_for(2, steps), 1 << 40, num_validation=10)
        taken[steps] = NETWORKS.index(choice.network), choice.limited_by
        for stage, each in choice.schedules.items():
            used = each.steps * 3 * choice.network.width**2 * SECOND
            assert used <= SHARES[stage] * seconds_for(2, steps), stage
            assert each.steps / 11 <= each.validate_every <= each.steps
    assert taken == {10: (0, "time"), 400: (1, "time"), 700: (2, "time")}
    plenty = choose(*costs, SPEEDS, seconds_for(3, 10_000), 1 << 40, num_validation=10)
    assert (plenty.network, plenty.limited_by) == (NETWORKS[-1], None)


def test_several_validations_take_at_most_a_tenth_of_the_time(costs: tuple[Params, Choice]) -> None:
    seconds, num_images, counts = seconds_for(0, 5000), 2000, set()
    choice = choose(*costs, SPEEDS, seconds, 1 << 40, num_validation=num_images)
    for stage, each in choice.schedules.items():
        validation = num_images * choice.network.width**2 * SECOND / each.batch_size
        counts.add(count := math.ceil(each.steps / each.validate_every))
        assert count == 1 or count * validation <= 0.1 * SHARES[stage] * seconds, stage
    assert any(1 < count < budget.VALIDATIONS for count in counts)


@pytest.mark.parametrize(("steps", "rounded"), [(7, 7), (99, 99), (123, 120), (1999, 1900)])
def test_steps_are_rounded_down_to_two_digits(steps: int, rounded: int) -> None:
    assert budget._rounded(steps) == rounded


def test_networks_fit_in_memory(costs: tuple[Params, Choice]) -> None:
    choice = choose(*costs, SPEEDS, seconds_for(3, 10_000), NETWORKS[1].width ** 2, num_validation=10)
    assert (choice.network, choice.limited_by) == (NETWORKS[1], "memory")
    with pytest.raises(InputError, match=r"^--size: expected images whose training fits in"):
        choose(*costs, SPEEDS, 1.0, NETWORKS[0].width ** 2 - 1, num_validation=10)


def test_the_folder_runs_the_workflow_of_the_package(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    draw(pictures, 1)
    with new_folder(tmp_path / "mine") as staging:
        write_workflow(staging, tmp_path / "mine", pictures, "mine")
    folder = tmp_path / "mine"
    assert (folder / "Snakefile").read_text().splitlines()[0].startswith(f'include: "{REPOSITORY}/Snakefile"')
    assert (folder / "sources/mine").readlink() == pictures
    assert "no_scm = true" in (folder / ".dvc/config").read_text()  # no Git here


def test_an_experiment_in_the_repository_moves_with_it(tmp_path: Path) -> None:
    write_workflow(tmp_path, REPOSITORY / "mine", tmp_path, "mine")
    assert (tmp_path / "Snakefile").read_text().splitlines()[0].startswith('include: "../Snakefile"')
    assert "PYTHONPATH=.. python" in (tmp_path / "dvc.yaml").read_text()


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(WriteError), new_folder(tmp_path / "mine") as staging:
        write_workflow(staging, tmp_path / "none/mine", tmp_path / "none", "none/mine")
    assert list(tmp_path.iterdir()) == []


def none(place: Path) -> None:
    place.mkdir()


def small(place: Path) -> None:
    draw(place, 3, (7, 20))


def damaged(place: Path) -> None:
    place.mkdir()
    (place / "a.png").write_bytes(b"nothing")


def two(place: Path) -> None:
    draw(place, 2)


def mixed(place: Path) -> None:
    draw(place / "train", 3)
    draw(place / "other", 3)


def untrained(place: Path) -> None:
    draw(place / "test", 3)


def three(place: Path) -> None:
    draw(place, 3)


@pytest.mark.parametrize(
    ("fill", "arguments", "message"),
    [
        (none, "mine", "pictures: expected pictures (.png, .jpg"),
        (small, "mine", "pictures: expected pictures of at least 8x8, as --size says, got 3, of which the largest has"),
        (damaged, "mine", "pictures: expected pictures that can be used, got none: a.png (not an image)"),
        (two, "mine", "pictures: expected at least 3 usable pictures, one for each split, got 0 train"),
        (mixed, "mine", "pictures: expected all images in train/, validation/ or test/, got other, train"),
        (untrained, "mine", "pictures: expected images in train/, beside those in test, found none"),
        (three, "my-name", "NAME: expected letters, digits and _, the first no _, got 'my-name'"),
        (three, "pictures", "pictures: expected a name that is free here, got one that exists"),
        (three, "mine --size 9", "--size: expected a multiple of 2, as the chains cut it into 2x2 slices, got 9"),
        (
            three,
            "mine --size 66",
            "--size: expected a multiple of 4, as the chains cut it into 4x4 slices, got 66",
        ),
        (three, "mine --minutes 0", "--minutes: expected a positive number, got 0.0"),
        (three, "mine --minutes nan", "--minutes: expected a positive number, got nan"),
        (three, "mine --pictures nowhere", "--pictures: expected a folder or zip of pictures, got nowhere"),
        (three, "mine --pictures pictures/0.png", "pictures/0.png: expected a zip archive, got"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    fill: Callable[[Path], None],
    arguments: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "pictures")
    assert main(["init", "--size", "8", "--pictures", "pictures", *arguments.split()]) == 2
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    (line,) = (line for line in lines if line and not line.startswith("decode "))
    assert line.startswith(f"spn: error: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
