"""Class-conditional stages: laws, labels from the file to the law, classes of samples, mistakes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import contract
import numpy as np
import pytest
import torch
from contract import SMALL, Check, build_problem, chains, labels_in_turn
from contract.model_checks import check_context_is_used, check_target_mass
from contract.sample_checks import check_batches
from experiment import read_history, tiny_params, write_params
from families import SECTIONS
from params_file import WITHOUT_CODES, Mistakes, changed, error_of, load

from spn.cli import main
from spn.config import FamilySection, InputError, Params, load_params
from spn.data.hdf5 import SliceFile
from spn.data.images import read_image_labels, read_images
from spn.data.layout import SPLITS, Layout, Origin, Split
from spn.data.preprocess import write_slices
from spn.data.resident import ResidentSlices
from spn.data.writing import create_slices
from spn.evaluation.check import check_stage
from spn.evaluation.evaluate import stage_nats
from spn.generation import sample_chain_stage
from spn.generation.sample import sample_labels
from spn.pipeline.reading import metrics_of_chains
from spn.planning.cost import sampling_work, step_cost
from spn.provenance import SamplingOptions, differing_keys, sampling_recipe, stage_recipe
from spn.report.pictures import class_columns
from spn.report.tables import text_table
from spn.trained import load_trained
from spn.training import train_stage
from spn.training.history import Row

CPU = torch.device("cpu")
FAMILIES: dict[str, FamilySection] = {"spn": SMALL} | {
    name: SECTIONS[name] for name in ("gated_pixelcnn", "pixelcnn_pp", "pixelsnail", "imagebart")
}
CHAINS = chains(1, 2)
CHECKS = (check_context_is_used, contract.check_cached_walk, check_batches)


def tiny(*conditional: str) -> dict[str, Any]:
    """Return the tiny experiment, in which the stages `conditional` are class-conditional."""
    raw = tiny_params()
    for name in conditional:
        raw["stages"][name]["class_conditional"] = True
    return raw


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as the stages high and low read them."""
    folder = tmp_path_factory.mktemp("digits")
    section = load_params(write_params(folder, tiny())).data
    write_slices(section, 2, (0, 2, 5), folder / "sources", folder / "S2.h5", progress=False)
    return folder / "S2.h5"


Labels = Mapping[Split, list[int] | None]
TONES: dict[Split, list[int]] = {
    split: [(image + place) % 10 for image in range(20)] for place, split in enumerate(SPLITS)
}
"""Of 20 images a split, in an order of its own."""


def write_tones(path: Path, labels: Labels) -> SliceFile:
    """Write images of ten even tones; `labels` need not tell them."""
    labelled: set[Split] = {split for split in SPLITS if labels[split] is not None}
    with create_slices(path, Layout(1, (0, 5), (2, 2, 1)), dict.fromkeys(SPLITS, 20), labelled) as writer:
        for split in SPLITS:
            images = np.repeat(np.array(TONES[split], np.uint8), 4).reshape(20, 2, 2, 1)
            writer.append(split, images, labels[split])
        writer.finish(Origin("tones", "arrays", "", "", "{}", 0, 0))
    return SliceFile(path)


def tones() -> dict[str, Any]:
    """Return the experiment whose data are the even tones."""
    raw = tiny("raster")
    raw["data"] = {"source": "arrays", "name": "tones", "bits": 5, "size": 2, "channels": 1, "release": "ours"}
    raw["data"]["num_classes"] = 10
    raw["stages"]["raster"]["model"]["dropout"] = 0.0
    raw["stages"]["raster"]["training"] |= {"steps": 60, "validate_every": 60, "batch_size": 20, "ema_decay": 0.5}
    raw["stages"]["raster"]["training"]["optimiser"]["learning_rate"] = 0.03
    return raw


# What params.yaml says.


def test_a_stage_is_told_of_the_classes_of_the_data(tmp_path: Path) -> None:
    params = load(tmp_path, tiny("high"))
    assert {name: plan.num_classes for name, plan in params.stage_plans.items()} == {"raster": 0, "high": 10, "low": 0}


def test_the_classes_of_arrays_are_stated(tmp_path: Path) -> None:
    data = {"source": "arrays", "name": "a", "bits": 5, "size": 8, "channels": 1, "release": "r", "num_classes": 3}
    assert load(tmp_path, tiny("low") | {"data": data}).stage_plans["low"].num_classes == 3
    del data["num_classes"]
    expected = "stages.low.class_conditional: expected data.num_classes to be stated, got no classes (line 1)"
    assert error_of(tmp_path, tiny("low") | {"data": data}) == expected


GATED_24 = {"family": "gated_pixelcnn", "width": 24, "layers": 1}
MISTAKES: Mistakes = {
    "data without classes": (
        {
            "data": {"source": "photos", "name": "p", "bits": 5, "size": 8, "stride": 8}
            | {"validation": 0.1, "test": 0.1},
            "stages": {"low": tiny("low")["stages"]["low"] | {"bits": [0, 5], "model": GATED_24}},
            "chains": {"low": {"stages": ["low"]}},
        },
        "stages.low.class_conditional: expected labels, which source photos lacks",
    ),
    "a word for a flag": ({"stages.low.class_conditional": "yes"}, "stages.low.class_conditional: "),
    "no stage is conditional": (
        WITHOUT_CODES | {"sampling.class": 3},
        "sampling.class: expected a stage that is class_conditional",
    ),
    "too large": (
        {"sampling.class": 10, "stages.low.class_conditional": True},
        "sampling.class: expected one of the classes 0 to 9, got 10",
    ),
    "negative": ({"sampling.class": -1}, "sampling.class: "),
    "a word": ({"sampling.class": "3"}, "sampling.class: "),
    "python's name": ({"sampling.class_": 3}, "sampling.class_: "),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line_with_its_key(name: str, tmp_path: Path) -> None:
    changes, start = MISTAKES[name]
    assert error_of(tmp_path, changed(changes)).startswith(start)


def test_the_class_is_part_of_the_recipe(tmp_path: Path) -> None:
    recipes = [
        stage_recipe(load(tmp_path, tiny(*conditional)), "low", "digest") for conditional in ((), ("high",), ("low",))
    ]
    assert recipes[0] == recipes[1] != recipes[2]


# What every family promises.


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("chain", ["raster", "depth"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_contract_of_stages_that_are_told_the_class(check: Check, chain: str, family: str) -> None:
    side = 4 if family == "pixelcnn_pp" else 2
    check(build_problem(CHAINS[chain], (side, side, 1), 2, FAMILIES[family], num_classes=3))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_probabilities_of_everything_sum_to_one_under_a_class(family: str) -> None:
    section = FAMILIES[family]
    if family == "pixelcnn_pp":
        section = section.model_copy(update={"downsampling": False})
    check_target_mass(build_problem(CHAINS["subscale"], (2, 2, 1), 2, section, num_classes=2))


def test_samples_of_a_class_are_as_frequent_as_their_probabilities_say() -> None:
    contract.check_frequencies(build_problem(CHAINS["raster"], (2, 2, 1), 2, num_classes=2))


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_that_are_told_the_class_are_checked(family: str) -> None:
    (plan,) = contract.resolve(CHAINS["raster"], (4, 4, 1), 2, num_classes=3).plans
    assert check_stage(plan, (4, 4, 1), FAMILIES[family], seed=1).startswith("raster: causal")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.slow
def test_stages_that_are_told_the_class_are_planned(family: str, tmp_path: Path) -> None:
    section = load(tmp_path, tiny()).stages["low"].model_copy(update={"model": FAMILIES[family]})
    (stage,) = contract.resolve(CHAINS["raster"], (4, 4, 1), 2, num_classes=3).stages
    assert step_cost(stage, section, batch_size=2).work.flops > 0
    assert sampling_work(stage, section, batch_size=2).flops > 0


# Labels on their way from the file to the law.


def test_labels_are_those_of_the_images(digits: Path) -> None:
    file, indices = SliceFile(digits), torch.tensor([3, 0, 3, 99])
    labels = labels_of(ResidentSlices(file, CPU), indices)
    assert torch.equal(labels, torch.cat([labels_of(file, indices[[i]]) for i in range(4)]))
    assert len(labels.unique()) > 1


def labels_of(data: SliceFile | ResidentSlices, indices: torch.Tensor) -> torch.Tensor:
    labels = data.labels("train", indices)
    assert labels is not None
    return labels


@pytest.mark.slow
def test_a_stage_learns_what_the_class_tells(tmp_path: Path) -> None:
    params = load(tmp_path, tones())
    file = write_tones(tmp_path / "tones.h5", TONES)
    nats = trained_nats(params, file, tmp_path)
    # Ten tones as frequent as each other: no law that is not class-conditional has less than their entropy.
    entropy = math.log(10)
    assert nats.mean() < 0.8 * entropy
    history = read_history(tmp_path / "out" / "history.csv")[-1]
    for split in ("train", "validation"):
        assert history[f"{split}_bits_per_dim_estimate"] * 4 * math.log(2) < 0.8 * entropy

    stage, model = load_trained(params, "raster", file.digest, tmp_path / "out" / "checkpoint.safetensors", CPU)
    others = write_tones(tmp_path / "others.h5", dict.fromkeys(SPLITS, TONES["train"]))
    assert (stage_nats(stage, model, others, "test", CPU) > nats + entropy).all()


def trained_nats(params: Params, file: SliceFile, folder: Path) -> np.ndarray:
    train_stage(params, "raster", file, folder / "out", folder / "runs", CPU)
    stage, model = load_trained(params, "raster", file.digest, folder / "out" / "checkpoint.safetensors", CPU)
    return stage_nats(stage, model, file, "test", CPU)


class KilledError(Exception):
    """Stands for the process dying where it is raised."""


@pytest.mark.slow
def test_a_killed_run_that_is_told_the_class_ends_with_the_weights_of_an_uninterrupted_one(
    digits: Path, tmp_path: Path
) -> None:
    params, file = load(tmp_path, tiny("low")), SliceFile(digits)

    def run(name: str, observe: Any = lambda row: None) -> bytes:
        train_stage(params, "low", file, tmp_path / name / "out", tmp_path / name / "runs", CPU, observe)
        _, model = load_trained(params, "low", file.digest, tmp_path / name / "out" / "checkpoint.safetensors", CPU)
        return b"".join(weight.numpy().tobytes() for weight in model.state_dict().values())

    def die(row: Row) -> None:
        if row["step"] == 4:
            raise KilledError

    with pytest.raises(KilledError):
        run("killed", die)
    assert run("killed") == run("whole")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("labels", [None, [0] * 19 + [10], [0] * 19 + [-1]], ids=["none", "too large", "negative"])
def test_labels_that_are_wanting_are_named_before_training(
    split: Split, labels: list[int] | None, tmp_path: Path
) -> None:
    file = write_tones(tmp_path / "tones.h5", TONES | {split: labels})
    got = "none" if labels is None else str(labels[-1])
    with pytest.raises(InputError, match=rf"tones.h5: expected labels 0 to 9 in split {split}, got {got}$"):
        train_stage(load(tmp_path, tones()), "raster", file, tmp_path / "out", tmp_path / "runs", CPU)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs").exists()


# Classes of samples.


def test_classes_of_samples_go_round_unless_one_is_asked_for() -> None:
    assert labels_in_turn(5, num_classes=3).tolist() == [0, 1, 2, 0, 1]
    assert labels_in_turn(3, num_classes=3, only=2).tolist() == [2, 2, 2]


def test_a_sample_is_of_its_own_class_and_of_no_other_image_s() -> None:
    ((stage, model),) = build_problem(CHAINS["raster"], (4, 4, 1), 2, num_classes=3).parts
    labels, of_others = labels_in_turn(40, num_classes=3), torch.arange(40) % 2 == 0

    def sample(labels: torch.Tensor, batch_size: int = 40) -> torch.Tensor:
        return sample_chain_stage(stage, model, None, 40, 1, 1.0, batch_size, labels=labels).flatten(1)

    differ = (sample(labels) != sample(torch.where(of_others, (labels + 1) % 3, labels))).any(1)
    assert differ[of_others].any()
    assert not differ[~of_others].any()
    assert torch.equal(sample(labels, batch_size=17), sample(labels))


def test_a_grid_has_a_column_for_each_class() -> None:
    assert class_columns(sample_labels(64, num_classes=10)) == 10
    assert class_columns(sample_labels(64, num_classes=10, only=3)) is None
    assert class_columns(sample_labels(64, num_classes=1000)) is None
    assert class_columns(None) is None


class Workplace:
    """The chain `depth` trained and evaluated, of whose stages one or the other is class-conditional."""

    def __init__(self, folder: Path, digits: Path, raw: dict[str, Any]) -> None:
        self.folder, self.digits = folder, digits
        del raw["stages"]["raster"], raw["chains"]["raster"]
        for stage in raw["stages"].values():
            stage["training"] |= {"steps": 1, "validate_every": 1}
        self.path = write_params(folder, raw)
        params, file = load_params(self.path), SliceFile(digits)
        for stage in ("high", "low"):
            train_stage(params, stage, file, folder / "stages" / stage, folder / "runs", CPU)
        self.params, self.digest = params, file.digest

    def spn(self, *arguments: str | Path) -> int:
        return main([*map(str, arguments), "--params", str(self.path)])

    def evaluate(self) -> None:
        for stage in ("high", "low"):
            place = self.folder / "stages" / stage
            files: list[str | Path] = [
                "--data",
                self.digits,
                "--checkpoint",
                place / "checkpoint.safetensors",
                "--output",
                place,
            ]
            assert self.spn("evaluate", stage, *files, "--device", "cpu") == 0
        output = self.folder / "chains" / "depth" / "metrics.json"
        assert self.spn("summarise", "depth", "--results", self.folder, "--output", output) == 0

    def place(self, stage: str) -> Path:
        return self.folder / "chains" / "depth" / stage

    def sample(self, stage: str, *options: str) -> int:
        checkpoint = self.folder / "stages" / stage / "checkpoint.safetensors"
        files: list[str | Path] = ["--data", self.digits, "--checkpoint", checkpoint, "--output", self.place(stage)]
        if stage == "low":
            files += ["--given", self.place("high") / "samples.h5"]
        return self.spn("sample_stage", "depth", stage, *files, "--device", "cpu", *options)

    def differences(self) -> list[str]:
        """List where the recipe of the last samples differs from that of exact ones under params.yaml."""
        expected = sampling_recipe(self.params, "depth", "low", self.digest, SamplingOptions(exact=True))
        return differing_keys(expected, read_images(self.place("low") / "samples.h5")[1]["recipe"])

    def labels(self, stage: str) -> list[int] | None:
        labels = read_image_labels(self.place(stage) / "samples.h5")
        return None if labels is None else labels.tolist()


def test_a_chain_gives_its_images_one_class_in_all_its_stages(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = Workplace(tmp_path, digits, tiny("high"))
    for options, expected in (([], [0, 1, 2, 3]), (["--class", "7"], [7] * 4)):
        for stage in ("high", "low"):
            assert work.sample(stage, *options) == 0
            assert work.labels(stage) == expected
    capsys.readouterr()
    for options in ([], ["--class", "6"]):
        assert work.sample("low", *options) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "high/samples.h5: made from another recipe than params.yaml asks for: label: expected " in line
        assert line.endswith(", got 7")


@pytest.mark.slow
def test_results_say_that_they_are_given_the_class(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = Workplace(tmp_path, digits, tiny("low") | {"sampling": {"num_images": 4, "seed": 1, "class": 3}})
    work.evaluate()
    metrics = json.loads((tmp_path / "chains" / "depth" / "metrics.json").read_text())
    assert metrics["conditioning"] == "class"
    assert {name: stage["conditioning"] for name, stage in metrics["stages"].items()} == {
        "high": "none",
        "low": "class",
    }
    for stage in ("high", "low"):
        assert work.sample(stage, "--batch-size", "3", "--exact") == 0
        assert work.labels(stage) == [3] * 4
    images, _ = read_images(work.place("low") / "samples.h5")
    assert "depth (class-conditional)" in text_table(work.params, metrics_of_chains(work.params, tmp_path))
    assert work.differences() == []

    for stage in ("high", "low"):
        assert work.sample(stage, "--class", "4", "--exact") == 0
    assert not torch.equal(read_images(work.place("low") / "samples.h5")[0], images)
    assert "label: expected 3, got 4" in work.differences()
    for stage in ("high", "low"):
        assert work.sample(stage, "--class", "3", "--exact") == 0
    assert torch.equal(read_images(work.place("low") / "samples.h5")[0], images)
    assert work.differences() == []


@pytest.mark.parametrize(
    ("conditional", "asked", "expected"),
    [
        ("low", "10", "--class: expected one of the classes 0 to 9, got 10"),
        ("low", "-1", "--class: expected one of the classes 0 to 9, got -1"),
        ("raster", "1", "--class: expected a chain with a stage that is class_conditional, got depth"),
    ],
)
def test_a_class_that_is_none_is_one_line(
    conditional: str, asked: str, expected: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_params(tmp_path, tiny(conditional))
    files = ["--data", digits, "--checkpoint", tmp_path / "none", "--output", tmp_path / "out", "--params", path]
    assert main([*map(str, ["sample_stage", "depth", "high", *files]), "--class", asked]) == 2
    assert capsys.readouterr().err == f"spn: error: {expected}\n"
