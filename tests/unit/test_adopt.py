"""`spn adopt`: a checkpoint goes on under refactored code, if that evaluates it as before, and nothing else changed."""

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from copies import copy_experiment
from experiment import codes_params, tiny_params, write_params

from spn.checkpoint import load_tensors, save_tensors
from spn.cli import main
from spn.config import load_params
from spn.data.hdf5 import SliceFile
from spn.data.layout import SPLITS
from spn.data.sources import open_source
from spn.files import read_json, write_json
from spn.notes import RECIPE, content_digest
from spn.paths import METRICS, NATS, checkpoint_path, metrics_path
from spn.pipeline.adopt import whole_batches
from spn.provenance import recipe_digest, stage_recipe

# One worker trains what is adopted.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("adopt")]

OLD = "0" * 64
"""The digest of code that trained, before it was refactored."""

DATA, OUTPUT = "data/digits/S2.h5", "results/stages/low"
TRAIN = ["train", "low", "--data", DATA, "--output", OUTPUT, "--device", "cpu"]
EVALUATE = ["evaluate", "low", "--data", DATA, "--checkpoint", f"{OUTPUT}/checkpoint.safetensors", "--output", OUTPUT]
ADOPT = ["adopt", "low", "--device", "cpu"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage that was trained and evaluated by other code, as its notes have it."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_params(folder, tiny_params())
        assert main(["preprocess", "--scale-factor", "2", "--output", DATA]) == 0
        assert main(TRAIN) == 0
        assert main(EVALUATE) == 0
        change_recipe(lambda recipe: recipe.update(code_digest=OLD))
    return folder


def change_recipe(change: Callable[[dict[str, Any]], object], stage: str = "low") -> None:
    """Change the recipe in the checkpoint, and what the figures say of it."""
    weights, notes = load_tensors(checkpoint_path(stage))
    change(notes[RECIPE])
    save_tensors(checkpoint_path(stage), weights, notes)
    metrics = read_json(metrics_path(stage))
    metrics[RECIPE]["training"] = metrics["recipe_digest"] = recipe_digest(notes[RECIPE])
    write_json(metrics_path(stage), metrics)


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy_experiment(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def test_a_checkpoint_is_adopted_and_says_of_what(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, notes = load_tensors(checkpoint_path("low"))
    assert main(ADOPT) == 0
    said = capsys.readouterr().out
    assert said.startswith("low: adopted from code 000000000000: the nats of 10 test images differ by at most 0; taken")
    after, now = load_tensors(checkpoint_path("low"))
    assert all(torch.equal(weight, after[name]) for name, weight in weights.items())
    params = load_params(Path("params.yaml"))
    assert now[RECIPE] == stage_recipe(params, "low", notes[RECIPE]["data_digest"])
    (adopted,) = now.pop("adopted")
    assert now | {RECIPE: None} == notes | {RECIPE: None}
    assert adopted.keys() == {
        *("code_digest", "data_digest", "commit", "date", "images", "largest_difference", "on_trust")
    }
    assert (adopted["code_digest"], adopted["images"], adopted["largest_difference"]) == (OLD, 10, 0.0)
    assert "training step" in adopted["on_trust"]
    assert "training step" in said


def test_nothing_trains_an_adopted_stage_again(folder: Path) -> None:
    assert main(ADOPT) == 0
    content = checkpoint_path("low").read_bytes()
    assert main(TRAIN) == 0
    assert checkpoint_path("low").read_bytes() == content
    assert main(EVALUATE) == 0


def test_it_is_said_if_there_is_nothing_to_adopt(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ADOPT) == 0
    content = checkpoint_path("low").read_bytes()
    assert main(ADOPT) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "low: already has the current recipe"
    assert checkpoint_path("low").read_bytes() == content


def test_adoptions_follow_each_other_in_the_notes(folder: Path) -> None:
    assert main(ADOPT) == 0
    change_recipe(lambda recipe: recipe.update(code_digest="1" * 64))
    assert main([*ADOPT, "--images", "3"]) == 0
    adoptions = load_tensors(checkpoint_path("low"))[1]["adopted"]
    assert [(each["code_digest"], each["images"]) for each in adoptions] == [(OLD, 10), ("1" * 64, 3)]


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """Adopt, which must be refused in one line and change nothing; return the line."""
    content = checkpoint_path("low").read_bytes()
    capsys.readouterr()
    assert main(ADOPT) == 2
    assert checkpoint_path("low").read_bytes() == content
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("spn: error: ")]
    return line.removeprefix("spn: error: ")


def test_other_weights_or_code_that_means_something_else_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from spn.layers import transformer

    sound = transformer.attention  # type: ignore[attr-defined]
    monkeypatch.setattr(transformer, "attention", lambda *inputs, **how: 1.01 * sound(*inputs, **how))
    line = refused(capsys)
    assert line.startswith(f"{checkpoint_path('low')}: expected the stored nats, image by image")
    assert line.endswith(": train again")


@pytest.mark.parametrize("image", [0, 9])
def test_a_difference_in_one_image_is_enough(folder: Path, image: int, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(OUTPUT) / NATS
    nats = np.load(path)
    for difference, is_adopted in ((1e-4, False), (5e-6, True)):
        nats[image] += difference
        np.save(path, nats)
        metrics = read_json(Path(OUTPUT) / METRICS)
        metrics["files"][NATS] = content_digest(path.read_bytes())
        write_json(Path(OUTPUT) / METRICS, metrics)
        if is_adopted:
            assert main(ADOPT) == 0
        else:
            assert "under this code they differ by up to" in refused(capsys)
        nats[image] -= difference


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a parameter": (
        lambda params: params["stages"]["low"]["training"].update(steps=7),
        "training.steps: expected 7, got 6",
    ),
    "the seed": (lambda params: params.update(seed=2), "seed: expected 2, got 1"),
    "the data": (lambda params: params["data"].update(split_seed=2), "data.split_seed: expected 2, got 1"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_parameters_and_data_are_never_adopted(folder: Path, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    edit, message = CHANGES[change]
    params = tiny_params()
    edit(params)
    write_params(folder, params)
    if change == "the data":
        assert refused(capsys).startswith(f"{DATA}: made from another recipe than params.yaml asks for: {message}")
        assert main(["preprocess", "--scale-factor", "2", "--output", DATA]) == 0
    line = refused(capsys)
    assert line.startswith(f"{checkpoint_path('low')}: expected a checkpoint of these parameters and data")
    assert line.endswith(message)


def former_digest(cuts: tuple[int, ...]) -> str:
    """Digest the data as when each stage had a file of its own cuts, out of the source itself."""
    lines = []
    params = load_params(Path("params.yaml"))
    source, size = open_source(params.data, Path("sources")), 2
    for split in SPLITS:
        images = np.stack([image for image, _ in source.stream(split)])
        # [N, S, S, h, w, C]
        slices = np.stack([np.stack([images[:, m::size, n::size] for n in range(size)], 1) for m in range(size)], 1)
        for start, end in itertools.pairwise(cuts):
            levels = (slices >> (5 - end)) % (1 << (end - start))
            lines.append((f"{split}/bits_{start}_{end}", hashlib.sha256(levels.astype(np.uint8).tobytes())))
        labels = np.array([label for _, label in source.stream(split)], dtype="<i8")
        lines.append((f"{split}/labels", hashlib.sha256(labels.tobytes())))
    listing = "".join(f"{digest.hexdigest()}  {name}\n" for name, digest in sorted(lines, key=lambda line: line[0]))
    return hashlib.sha256(listing.encode()).hexdigest()


def test_the_digest_that_data_had_before_is_adopted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    former, now = former_digest((0, 2, 5)), SliceFile(Path(DATA)).digest
    change_recipe(lambda recipe: recipe.update(data_digest=former))
    assert main(ADOPT) == 0
    assert capsys.readouterr().out.startswith("low: adopted from code 000000000000")
    notes = load_tensors(checkpoint_path("low"))[1]
    assert notes[RECIPE]["data_digest"] == now != former
    assert [each["data_digest"] for each in notes["adopted"]] == [former]
    content = checkpoint_path("low").read_bytes()
    assert main(TRAIN) == 0
    assert checkpoint_path("low").read_bytes() == content


@pytest.mark.parametrize("cuts", [(0, 5), (0, 3, 5), None])
def test_no_other_digest_of_data_is_adopted(
    folder: Path, cuts: tuple[int, ...] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even of the same images in a file that the stage never read."""
    other = former_digest(cuts) if cuts else "3" * 64
    change_recipe(lambda recipe: recipe.update(data_digest=other))
    line = refused(capsys)
    assert line.startswith(f"{checkpoint_path('low')}: expected a checkpoint of these parameters and data")
    assert line.endswith(f"data_digest: expected {SliceFile(Path(DATA)).digest}, got {other}")


def test_figures_of_another_checkpoint_show_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = read_json(metrics_path("low"))
    metrics[RECIPE]["training"] = "2" * 64
    write_json(metrics_path("low"), metrics)
    assert refused(capsys).startswith(f"{metrics_path('low')}: expected the figures of the checkpoint beside it")


def test_weights_of_another_network_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, notes = load_tensors(checkpoint_path("low"))
    save_tensors(checkpoint_path("low"), {f"moved.{name}": each for name, each in weights.items()}, notes)
    assert "expected the weights of the network that this code builds" in refused(capsys)


def test_a_stage_without_a_checkpoint_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adopt", "high"]) == 2
    assert capsys.readouterr().err.startswith(f"spn: error: {checkpoint_path('high')}: ")


def test_a_bound_on_codes_is_adopted_over_whole_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its stage reads codes in place of images, and the noise of its bound is a function of the batches."""
    monkeypatch.chdir(tmp_path)
    raw = codes_params()
    raw["data"] |= {"test": 140, "limit": {"train": 100, "validation": 12, "test": 140}}
    write_params(tmp_path, raw)
    images, first, codes = "data/digits/S1.h5", "results/stages/vq", "results/stages/codes2"
    assert main(["preprocess", "--scale-factor", "1", "--output", images]) == 0
    assert main(["train", "vq", "--data", images, "--output", first, "--device", "cpu"]) == 0
    weights = f"{first}/checkpoint.safetensors"
    assert main(["extract_codes", "vq", "--data", images, "--checkpoint", weights, "--output", first]) == 0
    data = f"{first}/codes.h5"
    assert main(["train", "codes2", "--data", data, "--output", codes, "--device", "cpu"]) == 0
    weights, drawn = f"{codes}/checkpoint.safetensors", raw["stages"]["codes2"]["diffusion"].get("draws", 8)
    assert main(["evaluate", "codes2", "--data", data, "--checkpoint", weights, "--output", codes]) == 0
    change_recipe(lambda recipe: recipe.update(code_digest=OLD), "codes2")
    raw["stages"]["codes2"]["diffusion"]["draws"] = 5
    write_params(tmp_path, raw)
    assert main(["adopt", "codes2", "--images", "5", "--device", "cpu"]) == 2
    expected = (
        f"stages.codes2.diffusion.draws: expected {drawn}, of which {codes}/metrics.json has the bound to compare"
    )
    assert expected in capsys.readouterr().err
    raw["stages"]["codes2"]["diffusion"]["draws"] = drawn
    write_params(tmp_path, raw)
    assert main(["adopt", "codes2", "--images", "5", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("codes2: adopted from code 000000000000: the nats of 128 test images differ by at most 0; ")
    assert main(["train", "codes2", "--data", data, "--output", codes, "--device", "cpu"]) == 0
    assert "adopted" in load_tensors(checkpoint_path("codes2"))[1]


@pytest.mark.parametrize(("images", "targets", "expected"), [(100, 1, 128), (100, 4, 128), (5, 3, 128), (129, 64, 130)])
def test_batches_are_whole(images: int, targets: int, expected: int) -> None:
    assert whole_batches(images, targets) == expected
