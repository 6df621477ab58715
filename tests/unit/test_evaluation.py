"""What evaluation says of a figure beside its value: exact or a bound, repeated, and at what speed it was made."""

import copy
import hashlib
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from experiment import read_history, tiny_params, write_params
from model_files import rgb_params

from spn.cli import main
from spn.config import InputError, Params, load_params
from spn.data.hdf5 import SliceFile
from spn.data.preprocess import write_slices
from spn.evaluation.evaluate import (
    chain_metrics,
    likelihood_metrics,
    load_nats,
    monte_carlo,
    save_nats,
    stage_metrics,
    stage_nats,
    sub_pixel_nats,
)
from spn.evaluation.speed import sampling_speed, training_speed
from spn.models import build_model
from spn.pipeline.opening import open_slices
from spn.pipeline.train import _check_batches
from spn.stages import Stage
from spn.training import train_stage, trainer
from spn.training.history import Row
from spn.training.state import TrainingState
from spn.training.trainer import Trainer
from spn.training.validation import estimate

CPU = torch.device("cpu")
STEP, VALIDATION, SAVING = 1.0, 100.0, 10_000.0
"""Seconds that each takes by the clock of the tests."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Params, SliceFile]:
    """The tiny experiment, with more steps than rows, and the data of its stages `high` and `low`."""
    folder = tmp_path_factory.mktemp("data")
    raw = tiny_params()
    raw["stages"]["low"]["training"] |= {"steps": 10, "validate_every": 5}
    params = load_params(write_params(folder, raw))
    write_slices(params.data, 2, (0, 2, 5), folder / "sources", folder / "S2.h5", progress=False)
    return params, SliceFile(folder / "S2.h5")


def test_a_bound_repeats_and_leaves_the_random_numbers_of_others_alone(
    data: tuple[Params, SliceFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, file = data
    nats = {}
    # As a law with noise: drawn from torch's own generator.
    monkeypatch.setattr(Stage, "nats", lambda stage, model, slices, *_: torch.rand(len(slices)).double())
    for stage, seed in (("low", 1), ("low again", 2), ("high", 1)):
        plan = Stage(params.stage_plans[stage.split()[0]], params.data.shape)
        model = build_model(params.stages["low"].model, plan.shape)
        torch.manual_seed(seed)
        expected = torch.rand(1, generator=torch.Generator().manual_seed(seed))
        nats[stage] = stage_nats(plan, model, file, "test", CPU, batch_size=4)
        assert torch.rand(1) == expected
    assert np.array_equal(nats["low"], nats["low again"])
    assert not np.array_equal(nats["low"], nats["high"])


@pytest.mark.parametrize(("evaluate", "nats"), [(stage_nats, Stage.nats), (sub_pixel_nats, Stage.sub_pixel_nats)])
def test_every_evaluation_multiplies_alike(
    data: tuple[Params, SliceFile], monkeypatch: pytest.MonkeyPatch, evaluate: Any, nats: Any
) -> None:
    settings, seen = torch.backends.mkldnn.matmul, []  # type: ignore[attr-defined]
    former = settings.fp32_precision
    monkeypatch.setattr("spn.machine._product_error", lambda: 0.0)  # of a processor whose products stay float32

    def noting(*arguments: Any) -> torch.Tensor:
        seen.append(settings.fp32_precision)
        return nats(*arguments)

    monkeypatch.setattr(Stage, nats.__name__, noting)
    plan = Stage(data[0].stage_plans["low"], data[0].data.shape)
    model = build_model(data[0].stages["low"].model, plan.shape)
    evaluate(plan, model, data[1], "test", CPU)
    assert set(seen) == {"bf16"}
    assert settings.fp32_precision == former != "bf16"


@pytest.mark.parametrize(
    ("stages", "total"), [(("exact", "exact"), "exact"), (("exact", "bound"), "bound"), (("bound", "bound"), "bound")]
)
def test_a_chain_is_a_bound_where_a_stage_is(stages: tuple[str, ...], total: str) -> None:
    nats = np.array([1.0, 2.0])
    figures = {
        "split": "test",
        "conditioning": "none",
        "dims": "sub-pixels",
        "num_parameters": 1,
        "recipe_digest": "",
        **likelihood_metrics(nats, 4),
    }
    metrics = chain_metrics(
        "c", {str(place): (figures | {"estimate": each}, nats) for place, each in enumerate(stages)}
    )
    assert metrics["estimate"] == total
    assert tuple(stage["estimate"] for stage in metrics["stages"].values()) == stages


def figures(nats: list[float], num_dims: int = 4, **changes: object) -> tuple[dict[str, Any], np.ndarray]:
    """Return what the evaluation of a stage wrote, of these nats per image."""
    told = {
        "split": "test",
        "estimate": "exact",
        "conditioning": "none",
        "dims": "sub-pixels",
        "num_parameters": 1,
        "recipe_digest": "",
    }
    return told | likelihood_metrics(np.array(nats), num_dims) | changes, np.array(nats)


def test_a_mean_and_its_standard_error_are_those_by_hand() -> None:
    # Of 1, 2 and 6: mean 3; squares of what differs 4 + 1 + 9 = 14, over 2 is the variance; 7, over 3 images.
    found = likelihood_metrics(np.array([1.0, 2.0, 6.0]), num_dims=5)
    assert found == {
        "nats": pytest.approx(3, rel=1e-14),
        "num_images": 3,
        "num_dims": 5,
        "bits_per_dim": pytest.approx(3 / 5 / math.log(2), rel=1e-14),
        "standard_error": pytest.approx(math.sqrt(7 / 3) / 5 / math.log(2), rel=1e-14),
    }
    assert likelihood_metrics(np.array([2.0]), num_dims=5)["standard_error"] is None


def test_a_likelihood_that_is_not_finite_is_no_figure() -> None:
    with pytest.raises(FloatingPointError, match=r"^expected finite likelihoods, got a mean of inf nats$"):
        likelihood_metrics(np.array([np.inf]), num_dims=5)


@pytest.mark.parametrize(("stages", "total"), [(("none", "none"), "none"), (("none", "class"), "class")])
def test_a_chain_is_given_the_class_where_a_stage_is(stages: tuple[str, str], total: str) -> None:
    metrics = chain_metrics(
        "c", {str(place): figures([1.0, 2.0], conditioning=each) for place, each in enumerate(stages)}
    )
    assert metrics["conditioning"] == total
    assert tuple(stage["conditioning"] for stage in metrics["stages"].values()) == stages


def test_the_figures_of_a_chain_of_one_stage_are_those_of_the_stage() -> None:
    stage, nats = figures([1.0, 3.0], recipe_digest="abc", num_parameters=7)
    kept = (
        "estimate",
        "conditioning",
        "dims",
        "bits_per_dim",
        "standard_error",
        "nats",
        "num_parameters",
        "recipe_digest",
    )
    assert chain_metrics("c", {"only": (stage | {"seconds": 1.0}, nats)}) == {
        "chain": "c",
        **{key: value for key, value in stage.items() if key != "recipe_digest"},
        "stages": {"only": {key: stage[key] for key in kept}},
    }


def test_nats_are_read_as_they_were_written(tmp_path: Path) -> None:
    path, nats = tmp_path / "stage" / "nats.npy", np.array([1.5, -2.0, 1e-300])
    digest = save_nats(path, nats)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.array_equal(load_nats(path, digest), nats)
    assert np.array_equal(np.load(path), nats)


def test_nats_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    path = tmp_path / "nats.npy"
    with pytest.raises(InputError) as caught:
        load_nats(path, "abc")
    assert str(caught.value).startswith(f"{path}: expected the nats of each image: ")
    path.mkdir()
    with pytest.raises(InputError, match=rf"^{path}: expected a file, got a folder$"):
        load_nats(path, "abc")
    path.rmdir()
    path.write_bytes(b"1")
    with pytest.raises(InputError) as caught:
        load_nats(path, "abc")
    assert str(caught.value) == (
        f"{path}: expected a file of SHA-256 abc, as metrics.json says, got {hashlib.sha256(b'1').hexdigest()}: "
        "damaged; delete it and run the workflow again"
    )


def test_nats_are_never_pickled(tmp_path: Path) -> None:
    path = tmp_path / "nats.npy"
    np.save(path, np.array([None]))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_nats(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_chain_adds_its_stages_image_by_image() -> None:
    total = chain_metrics("c", {"high": figures([1.0, 3.0]), "low": figures([4.0, 2.0])})
    # 5 and 5: the stages' errors are not the chain's.
    assert (total["nats"], total["standard_error"]) == (5, 0)
    assert total["bits_per_dim"] == pytest.approx(5 / 4 / math.log(2), rel=1e-14)
    assert (total["num_images"], total["num_dims"], total["split"], total["num_parameters"]) == (2, 4, "test", 2)


@pytest.mark.parametrize(
    "other",
    [figures([1.0, 2.0, 3.0]), figures([1.0, 3.0], split="validation"), figures([1.0, 3.0], num_dims=8)],
    ids=["images", "split", "dims"],
)
def test_stages_of_other_images_are_not_added(other: tuple[dict[str, Any], np.ndarray]) -> None:
    with pytest.raises(InputError, match=r"^chains.c: expected stages evaluated on the same images, got .*'test'"):
        chain_metrics("c", {"high": figures([1.0, 3.0]), "low": other})


def test_stages_follow_one_another() -> None:
    fast = [{"step": 1, "training_seconds": 9.0}, {"step": 10, "training_seconds": 10.0}]
    slow = [{"step": 30, "training_seconds": 60.0}]
    speed = training_speed([(fast, 4), (slow, 8)])  # 4 images a second in both
    assert speed == {"training_seconds": 70.0, "training_images_per_second": pytest.approx(2.0)}
    timings = [{"images": 8, "seconds": 2.0}, {"images": 8, "seconds": 6.0}]
    assert sampling_speed(timings) == {"sampling_images_per_second": pytest.approx(1.0)}


class KilledError(Exception):
    """Stands for the process dying where it is raised."""


def test_seconds_of_training_are_those_of_steps_and_go_on_after_a_kill(
    data: tuple[Params, SliceFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def slow(owner: type, name: str, seconds: float) -> None:
        work = getattr(owner, name)

        def timed(*arguments: Any) -> Any:
            now[0] += seconds
            return work(*arguments)

        monkeypatch.setattr(owner, name, timed)

    slow(Trainer, "train_step", STEP)
    slow(Trainer, "validate", VALIDATION)
    slow(TrainingState, "save", SAVING)
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(trainer, "ROWS", 2)
    monkeypatch.setattr(trainer, "SAVE_SECONDS", 2)  # between rows, too

    def die(row: Row) -> None:
        if row["step"] == 10:
            raise KilledError

    params, file = data
    with pytest.raises(KilledError):
        train_stage(params, "low", file, tmp_path / "out", tmp_path / "runs", CPU, die)
    train_stage(params, "low", file, tmp_path / "out", tmp_path / "runs", CPU)
    rows = read_history(tmp_path / "out" / "history.csv")
    assert [(row["step"], row["training_seconds"]) for row in rows] == [(5, 5 * STEP), (10, 10 * STEP)]
    assert {row["images_per_second"] for row in rows} == {params.stages["low"].training.batch_size / STEP}


def test_the_error_of_draws_is_that_of_their_mean_over_images() -> None:
    draws = np.array([[1.0, 5.0], [3.0, 5.0]])  # the first image's draws have a variance of 2
    found = monte_carlo(draws, num_dims=4)
    assert found == {"draws": 2, "standard_error_of_draws": pytest.approx(math.sqrt(2 / 2) / 2 / 4 / math.log(2))}


@pytest.mark.parametrize("law", ["softmax", "dequantised"])
def test_the_error_of_a_single_draw_is_not_known_and_that_of_an_exact_figure_none(
    data: tuple[Params, SliceFile], law: str
) -> None:
    raw = tiny_params()
    raw["stages"]["low"]["model"]["law"] = law
    params = load_params(write_params(data[1].path.parent, raw))
    stage = Stage(params.stage_plans["low"], params.data.shape)
    model = build_model(params.stages["low"].model, stage.shape)
    metrics = stage_metrics(params, stage, model, np.array([[1.0, 5.0]]))
    stated = {key: metrics[key] for key in ("draws", "standard_error_of_draws") if key in metrics}
    assert stated == ({} if law == "softmax" else {"draws": 1, "standard_error_of_draws": None})


def test_errors_of_the_draws_of_stages_add_up_in_quadrature() -> None:
    parts = {
        name: figures([1.0, 3.0], draws=2, standard_error_of_draws=error) for name, error in (("a", 3.0), ("b", 4.0))
    }
    assert chain_metrics("c", parts)["standard_error_of_draws"] == pytest.approx(5)


def test_the_error_of_the_draws_of_a_chain_is_not_known_where_that_of_a_stage_is_not() -> None:
    drawn = {"a": (8, 3.0), "b": (1, None)}
    parts = {
        name: figures([1.0, 3.0], draws=draws, standard_error_of_draws=error) for name, (draws, error) in drawn.items()
    }
    metrics = chain_metrics("c", parts | {"exact": figures([1.0, 3.0])})
    assert metrics["standard_error_of_draws"] is None
    told = {name: (each.get("draws"), each.get("standard_error_of_draws")) for name, each in metrics["stages"].items()}
    assert told == drawn | {"exact": (None, None)}
    assert "standard_error_of_draws" not in chain_metrics("c", {"exact": figures([1.0, 3.0])})


@pytest.mark.parametrize("law", ["softmax", "dequantised"])
def test_validation_repeats_and_gathers_on_the_cpu(
    data: tuple[Params, SliceFile], monkeypatch: pytest.MonkeyPatch, law: str
) -> None:
    """Also that of a bound, whose noise must not be that which the last step left; processes have several devices."""
    raw = tiny_params()
    raw["stages"]["low"]["model"]["law"] = law
    params = load_params(write_params(data[1].path.parent, raw))
    learner = Trainer(params, "low", data[1], {}, CPU)
    moved: list[torch.Tensor] = []
    nats = Stage.nats

    def elsewhere(*arguments: Any) -> Any:
        found = nats(*arguments)
        moved.append(found)
        return SimpleNamespace(cpu=lambda: found)

    monkeypatch.setattr(Stage, "nats", elsewhere)
    figures = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        figures.add(estimate(learner.learner, learner.data))
    assert len(figures) == 1
    assert moved


def test_validation_takes_the_same_slices_whatever_the_name_and_the_batches(
    data: tuple[Params, SliceFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two stages of the same bits could not be compared by their estimates."""
    raw = tiny_params()
    raw["stages"]["other"] = copy.deepcopy(raw["stages"]["low"])
    raw["stages"]["other"]["training"] = {**raw["stages"]["low"].get("training", {}), "batch_size": 1}
    of_low = next(name for name, chain in raw["chains"].items() if "low" in chain["stages"])
    stages = ["other" if each == "low" else each for each in raw["chains"][of_low]["stages"]]
    raw["chains"]["another"] = {"stages": stages}
    params = load_params(write_params(data[1].path.parent, raw))
    taken: dict[str, list[torch.Tensor]] = {"low": [], "other": []}
    nats = Stage.nats
    for name, positions in taken.items():
        learner = Trainer(params, name, data[1], {}, CPU)

        def watched(*arguments: Any, positions: list[torch.Tensor] = positions) -> Any:
            positions.append(arguments[3])
            return nats(*arguments)

        monkeypatch.setattr(Stage, "nats", watched)
        estimate(learner.learner, learner.data)
    assert len(taken["low"]) != len(taken["other"])
    assert torch.equal(torch.cat(taken["low"]), torch.cat(taken["other"]))


def test_slices_of_other_images_are_refused(data: tuple[Params, SliceFile], tmp_path: Path) -> None:
    """Also where a stage of convolutions alone would take them."""
    raw: dict[str, Any] = rgb_params()
    raw["data"] |= {"bits": 5}
    for name, bits in (("raster", [0, 5]), ("high", [0, 2]), ("low", [2, 5])):
        raw["stages"][name]["bits"] = bits
    colours = load_params(write_params(tmp_path, raw))
    with pytest.raises(InputError, match=f"^{data[1].path}: expected images of 8x8x3 for low, got 8x8x1$"):
        open_slices(colours, "low", data[1].path)


def test_slices_of_another_data_section_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = load_params(write_params(tmp_path, tiny_params()))
    assert main(["preprocess", "--scale-factor", "2", "--output", "S2.h5"]) == 0
    assert open_slices(params, "low", Path("S2.h5"))[0] is params
    raw = tiny_params()
    raw["data"]["split_seed"] = 2
    line = r"^S2.h5: made from another recipe than params.yaml asks for: data.split_seed: expected 2, got 1$"
    with pytest.raises(InputError, match=line):
        open_slices(load_params(write_params(tmp_path, raw)), "low", Path("S2.h5"))


@pytest.mark.parametrize(("processes", "fits"), [(8, True), (9, False)])
def test_every_process_has_an_image_of_every_batch(
    data: tuple[Params, SliceFile], monkeypatch: pytest.MonkeyPatch, processes: int, fits: bool
) -> None:
    monkeypatch.setattr("spn.pipeline.train.num_processes", lambda: processes)
    line = "^stages.low.training.batch_size: expected at least the number of processes, 9, got 8$"
    with nullcontext() if fits else pytest.raises(InputError, match=line):
        _check_batches(data[0], "low")
