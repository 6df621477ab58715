"""Captions: words of class names as tokens, the network that reads them, samples of a caption, mistakes."""

from pathlib import Path
from typing import Any

import contract
import pytest
import torch
from contract import SMALL, Check, build_problem, chains
from contract.model_checks import check_context_is_used, check_target_mass
from contract.sample_checks import check_batches
from experiment import tiny_params, write_params
from families import BART
from params_file import WITHOUT_CODES, Mistakes, changed, error_of, load

from spn.cli import main
from spn.config import InputError, load_params
from spn.config.captions import captions
from spn.data.images import read_image_labels, read_images
from spn.data.preprocess import write_slices
from spn.evaluation.check import check_stage
from spn.image import split_slices
from spn.planning.cost import sampling_work, step_cost
from spn.provenance import sampled_label, stage_recipe

NAMES = "golden retriever", "Retriever (old)", "cat"
OF_NAMES = captions(NAMES)
CHAINS = chains(1, 2)


def tiny(**stages: dict[str, Any]) -> dict[str, Any]:
    """Return the tiny experiment with ImageBART's network, and changes of its stages."""
    raw = tiny_params()
    for name, stage in raw["stages"].items():
        stage["model"] = {"family": "imagebart", "width": 8, "heads": 2, "decoder_layers": 1, "encoder_layers": 1}
        stage |= stages.get(name, {})
    return raw


CAPTIONED = {"captioned": True}


def test_words_are_numbered_by_the_alphabet_and_captions_filled_up() -> None:
    assert OF_NAMES.vocabulary == ("cat", "golden", "old", "retriever")
    assert OF_NAMES.of_classes == ((2, 4), (4, 3), (1, 0))
    assert OF_NAMES.tokens("Golden_CAT") == (2, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("golden dog", "expected words of class names (cat, golden, old, retriever), got dog"),
        (
            "golden retreiver",
            "expected words of class names (cat, golden, old, retriever), got retreiver; did",
        ),
        ("old golden cat", "expected 1 to 2 words, as in class names, got 3"),
        ("...", "expected 1 to 2 words, as in class names, got 0"),
    ],
)
def test_words_that_no_class_has_are_named(text: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        OF_NAMES.tokens(text)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    "check", [check_context_is_used, contract.check_cached_walk, check_batches], ids=lambda check: check.__name__
)
@pytest.mark.parametrize("chain", ["raster", "depth"])
def test_the_contract_of_captioned_stages(check: Check, chain: str) -> None:
    check(build_problem(CHAINS[chain], (2, 2, 1), 2, BART, num_classes=3, captions=OF_NAMES.of_classes))


def test_probabilities_of_everything_sum_to_one_under_a_caption() -> None:
    check_target_mass(build_problem(CHAINS["raster"], (2, 2, 1), 2, BART, 3, OF_NAMES.of_classes))


@pytest.mark.slow
def test_captioned_stages_are_checked_and_planned(tmp_path: Path) -> None:
    problem = contract.resolve(CHAINS["raster"], (4, 4, 1), 2, 3, OF_NAMES.of_classes)
    assert check_stage(problem.plans[0], (4, 4, 1), BART, seed=1).startswith("raster: causal")
    section = load(tmp_path, tiny()).stages["low"].model_copy(update={"model": BART})
    assert step_cost(problem.stages[0], section, batch_size=2).work.flops > 0
    assert sampling_work(problem.stages[0], section, batch_size=2).flops > 0


def test_the_order_of_words_counts_and_that_of_a_class_is_its_caption() -> None:
    ((stage, model),) = build_problem(CHAINS["raster"], (4, 4, 1), 2, BART, 3, OF_NAMES.of_classes).parts

    slices = split_slices(torch.zeros(2, 4, 4, 1, dtype=torch.uint8), 1)
    position = stage.positions((0, 0), 2)
    target = stage.target(slices, position)

    def log_probs(labels: torch.Tensor) -> torch.Tensor:
        return model(target, stage.context(slices, position, labels)).log_prob(target)

    of_class = log_probs(torch.zeros(2).long())
    words = torch.tensor([OF_NAMES.of_classes[0]] * 2)
    assert torch.equal(of_class, log_probs(words))
    assert (of_class - log_probs(words.flip(1))).abs().max() > 1e-6


# What params.yaml says.


def test_a_caption_that_is_a_class_s_name_is_that_class(tmp_path: Path) -> None:
    params = load(tmp_path, tiny(high=CAPTIONED))
    assert sampled_label(params, "depth", caption="Seven") == 7
    assert sampled_label(params, "depth") is None
    assert sampled_label(load(tmp_path, tiny(high=CAPTIONED) | {"sampling": SAMPLING}), "depth") == 7
    assert sampled_label(load(tmp_path, tiny(low={"class_conditional": True})), "depth", caption="seven") == 7


SAMPLING = {"num_images": 4, "seed": 1, "caption": "seven"}


def folder(*names: str) -> dict[str, Any]:
    """Return the data section of a folder, with these names of classes."""
    return {
        "source": "folder",
        "name": "pets",
        "bits": 5,
        "size": 8,
        "channels": 1,
        "fit": "crop",
        "filter": "box",
        "validation": 3,
        "test": 3,
        "num_classes": 3,
        "class_names": list(names),
    }


def test_other_captions_are_tokens_unless_a_stage_needs_the_class(tmp_path: Path) -> None:
    captioned = tiny(high=CAPTIONED, low=CAPTIONED) | {"data": folder(*NAMES)}
    assert sampled_label(load(tmp_path, captioned), "depth", caption="old cat") == [3, 1]
    captioned["stages"]["low"] |= {"captioned": False, "class_conditional": True}
    message = (
        "--caption: expected a class (golden retriever, Retriever (old), cat), because low is class_conditional, got"
    )
    with pytest.raises(InputError) as refused:
        sampled_label(load(tmp_path, captioned), "depth", caption="old cat")
    assert str(refused.value) == f"{message} old cat"
    with pytest.raises(InputError, match="--caption: expected a chain with a stage that is captioned, got raster"):
        sampled_label(load(tmp_path, captioned), "raster", caption="old cat")


def test_the_words_are_part_of_the_recipe_of_captioned_stages(tmp_path: Path) -> None:
    def recipes(*names: str, **stages: dict[str, Any]) -> list[dict[str, Any]]:
        params = load(tmp_path, tiny(**stages) | {"data": folder(*names)})
        return [stage_recipe(params, stage, "digest") for stage in ("high", "low")]

    before, after = recipes(*NAMES, high=CAPTIONED), recipes("golden retriever", "old dog", "cat", high=CAPTIONED)
    assert before[0]["plan"]["captions"] == [[2, 4], [4, 3], [1, 0]]
    assert (before[0] == after[0], before[1] == after[1]) == (False, True)
    assert recipes(*NAMES)[0] != before[0]


MISTAKES: Mistakes = {
    "another family": (
        {"stages.low.captioned": True},
        "stages.low.captioned: expected family imagebart, which reads words, got spn",
    ),
    "both": (
        {"stages.low.captioned": True, "stages.low.class_conditional": True},
        "stages.low: expected class_conditional or captioned, got both",
    ),
    "no stage is captioned": (
        WITHOUT_CODES | {"sampling.caption": "seven"},
        "sampling.caption: expected a stage that is captioned, got none for seven",
    ),
    "no words": ({"sampling.caption": " . "}, "sampling.caption: "),
    "names that are not so many": (
        {"data": folder("cat", "dog")},
        "data.class_names: expected as many as data.num_classes = 3, got 2",
    ),
    "two names of the same words": (
        {"data": folder("T-shirt", "cat", "t shirt")},
        "data.class_names: expected names of different words, got T-shirt, t shirt",
    ),
    "a name without words": ({"data": folder("cat", "dog", "--")}, "data.class_names.2: "),
    "classes without names": (
        {"data": folder(), "stages": tiny(raster=CAPTIONED)["stages"], "chains": {"raster": {"stages": ["raster"]}}},
        "stages.raster.captioned: expected data.class_names to be stated, got no names",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line_with_its_key(name: str, tmp_path: Path) -> None:
    changes, start = MISTAKES[name]
    assert error_of(tmp_path, changed(changes)).startswith(start)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (SAMPLING | {"class": 3}, "sampling.caption: expected a class or a caption, got both 3 and seven"),
        (SAMPLING | {"caption": "sevn"}, "sampling.caption: expected words of class names (eight, five, four, nine, "),
    ],
)
def test_a_caption_that_cannot_be_is_told_with_its_key(sampling: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert error_of(tmp_path, tiny(high=CAPTIONED) | {"sampling": sampling}).startswith(message)


# From the command line.


def test_a_chain_samples_the_caption_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the training is recorded
    raw = tiny(high=CAPTIONED)
    for stage in raw["stages"].values():
        stage["training"] |= {"steps": 1, "validate_every": 1}
    path = write_params(tmp_path, raw)
    data = tmp_path / "S2.h5"
    write_slices(load_params(path).data, 2, (0, 2, 5), tmp_path / "sources", data, progress=False)
    files = ["--data", str(data), "--params", str(path)]
    assert main(["train", "high", *files, "--output", str(tmp_path / "high"), "--runs", str(tmp_path / "runs")]) == 0
    place = [*files, "--checkpoint", str(tmp_path / "high" / "checkpoint.safetensors")]

    def sample(*options: str) -> int:
        return main(["sample_stage", "depth", "high", *place, "--output", str(tmp_path / "out"), *options])

    assert sample("--caption", "seven") == 0
    labels = read_image_labels(tmp_path / "out" / "samples.h5")
    assert labels is not None
    assert labels.tolist() == [7] * 4
    images, notes = read_images(tmp_path / "out" / "samples.h5")
    assert notes["recipe"]["label"] == 7
    assert sample("--class", "7") == 0
    assert torch.equal(read_images(tmp_path / "out" / "samples.h5")[0], images)
    capsys.readouterr()
    assert sample("--caption", "seventy") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("spn: error: --caption: expected words of class names (eight, five, ")
    assert line.endswith("got seventy; did you mean seven?")


def test_the_smallest_network_of_another_family_reads_no_captions() -> None:
    assert (BART.reads_captions, SMALL.reads_captions) == (True, False)
