"""Training: resumed runs, idempotence, averaging, schedules and what stops it."""

import copy
import hashlib
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment import read_history, tiny_params, write_params

from spn.checkpoint import load_tensors
from spn.config import InputError, Params, load_params
from spn.data.hdf5 import SliceFile
from spn.data.preprocess import write_slices
from spn.models.pixelcnn_pp import PixelCnnPp
from spn.provenance import stage_recipe
from spn.seeds import derive_seed, seeded
from spn.stages import Stage
from spn.training import train, train_stage
from spn.training.batches import batch_indices, draw_positions
from spn.training.history import Row
from spn.training.optimiser import learning_rate
from spn.training.train import trained_notes
from spn.training.trainer import Trainer

CPU = torch.device("cpu")
FILES = {"raster": "S1.h5"}
"""Of the stages that are not cut like the others."""


class KilledError(Exception):
    """Stands for the process dying where it is raised."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    section = load_params(write_params(folder, tiny_params())).data
    write_slices(section, 2, (0, 2, 5), folder / "sources", folder / "S2.h5", progress=False)
    write_slices(section, 1, (0, 5), folder / "sources", folder / "S1.h5", progress=False)
    return folder


def changed(tmp_path: Path, **training: object) -> Params:
    """Load the tiny experiment with another training section for all stages."""
    raw = tiny_params()
    for stage in raw["stages"].values():
        stage["training"] |= copy.deepcopy(training)
    return load_params(write_params(tmp_path, raw))


def run(params: Params, data: Path, place: Path, stage: str = "low", **options: Any) -> dict[str, torch.Tensor]:
    """Train one stage under `place` and give its weights."""
    file = SliceFile(data / FILES.get(stage, "S2.h5"))
    train_stage(params, stage, file, place / "out", place / "runs", CPU, **options)
    return load_tensors(place / "out" / "checkpoint.safetensors")[0]


@pytest.mark.slow
def test_data_initialise_a_network_once_and_never_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tiny_params()
    for stage in raw["stages"].values():
        stage["model"] = {"family": "pixelcnn_pp", "filters": 4, "resnets": 1, "mixtures": 2}
    params = load_params(write_params(tmp_path, raw))
    sound, passes = PixelCnnPp.initialise, 0

    def initialise(*arguments: Any) -> None:
        nonlocal passes
        passes += 1
        sound(*arguments)

    monkeypatch.setattr(PixelCnnPp, "initialise", initialise)
    whole = run(params, data, tmp_path / "whole")
    assert passes == 1

    def die(row: Row) -> None:
        if row["step"] == 4:
            raise KilledError

    with pytest.raises(KilledError):
        run(params, data, tmp_path / "killed", observe=die)
    assert passes == 2
    assert_same(run(params, data, tmp_path / "killed"), whole)
    assert passes == 2


def test_averaging_begins_with_what_data_initialised(data: Path, tmp_path: Path) -> None:
    raw = tiny_params()
    raw["stages"]["low"]["model"] = {"family": "pixelcnn_pp", "filters": 4, "resnets": 1, "mixtures": 2}
    params = load_params(write_params(tmp_path, raw))
    file = SliceFile(data / "S2.h5")
    trainer = Trainer(params, "low", file, stage_recipe(params, "low", file.digest), CPU)
    fresh = {name: weight.clone() for name, weight in trainer.state.average.model.state_dict().items()}
    trainer.initialise()
    averaged = trainer.state.average.model.state_dict()
    assert_same(averaged, trainer.model.state_dict())
    assert any(not torch.equal(averaged[name], fresh[name]) for name in fresh)


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize(
    "optimiser",
    [
        {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        {"name": "rmsprop", "learning_rate": 0.001},
        {"name": "muon", "learning_rate": 0.02, "others_learning_rate": 0.004},
    ],
    ids=lambda section: section["name"],
)
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    data: Path, tmp_path: Path, optimiser: dict[str, Any]
) -> None:
    params = changed(tmp_path, optimiser=optimiser)
    whole = run(params, data, tmp_path / "whole")

    def die(row: Row) -> None:
        if row["step"] == 4:
            raise KilledError

    with pytest.raises(KilledError):
        run(params, data, tmp_path / "killed", observe=die)
    assert not (tmp_path / "killed" / "out").exists()
    rows: list[Row] = []
    resumed = run(params, data, tmp_path / "killed", observe=rows.append)

    assert_same(whole, resumed)
    # Saved at step 3, where it validated: the row of step 4 is made again, and none is missing or doubled.
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    kept = ("train_bits_per_dim_estimate", "validation_bits_per_dim_estimate", "learning_rate")
    histories = [read_history(tmp_path / name / "out" / "history.csv") for name in ("whole", "killed")]
    for before, after in zip(*histories, strict=True):
        assert [before.get(key) for key in kept] == [after.get(key) for key in kept]


def test_what_is_trained_is_not_trained_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = changed(tmp_path)
    weights = run(params, data, tmp_path)
    monkeypatch.setattr(Trainer, "train_step", _forbidden)
    assert_same(weights, run(params, data, tmp_path))
    # The result deleted: exported again from the finished run.
    (tmp_path / "out" / "checkpoint.safetensors").unlink()
    assert_same(weights, run(params, data, tmp_path))
    # The finished run deleted: the result is enough.
    for state in (tmp_path / "runs").iterdir():
        state.unlink()
    rows: list[Row] = []
    assert_same(weights, run(params, data, tmp_path, observe=rows.append))
    assert rows[-1]["step"] == 6


def test_processes_are_asked_what_they_found(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On several nodes, of which one may see old files: what the processes of a job must agree on."""
    asked: list[tuple[str, object]] = []
    monkeypatch.setattr(train, "agree", lambda what, mine, reason: asked.append((what, mine)))
    params = changed(tmp_path)
    run(params, data, tmp_path)
    (tmp_path / "out" / "checkpoint.safetensors").unlink()
    run(params, data, tmp_path)
    run(params, data, tmp_path)
    step = "state of the training"
    assert asked == [("checkpoint", False), (step, 0), ("checkpoint", False), (step, 6), ("checkpoint", True)]


def _forbidden(self: object) -> None:
    raise AssertionError("trained")


def test_another_recipe_is_another_training(data: Path, tmp_path: Path) -> None:
    first, second = changed(tmp_path), changed(tmp_path, clip_norm=0.1)
    weights = run(first, data, tmp_path)
    recipe = stage_recipe(second, "low", SliceFile(data / "S2.h5").digest)
    assert trained_notes(tmp_path / "out/checkpoint.safetensors", recipe) is None
    other = run(second, data, tmp_path)
    assert any(not torch.equal(weights[name], other[name]) for name in weights)
    assert trained_notes(tmp_path / "out/checkpoint.safetensors", recipe)


def test_the_same_recipe_gives_the_same_weights(data: Path, tmp_path: Path) -> None:
    params = changed(tmp_path)
    assert_same(run(params, data, tmp_path / "one"), run(params, data, tmp_path / "two"))


@pytest.mark.parametrize("stage", ["raster", "high", "low"])
@pytest.mark.slow
def test_training_learns_more_than_the_histogram(data: Path, tmp_path: Path, stage: str) -> None:
    # A network whose gates saturate or whose units die still learns how frequent each level is, and no more.
    params = changed(tmp_path, steps=300, validate_every=100, batch_size=32)
    run(params, data, tmp_path, stage=stage)
    learned = read_history(tmp_path / "out" / "history.csv")[-1]["validation_bits_per_dim_estimate"]

    plan = Stage(params.stage_plans[stage], params.data.shape)
    slices = SliceFile(data / FILES.get(stage, "S2.h5")).slices("validation", torch.arange(12))
    levels = torch.cat([plan.target(slices, plan.positions(target, 12)).flatten() for target in plan.targets])
    shares = levels.bincount().double() / len(levels)
    assert learned < 0.9 * -(shares * shares.clamp_min(1e-9).log2()).sum().item()


def test_bfloat16_trains(data: Path, tmp_path: Path) -> None:
    weights = run(changed(tmp_path, precision="bfloat16"), data, tmp_path)
    assert all(weight.dtype == torch.float32 for weight in weights.values())


def test_a_loss_that_is_not_finite_stops_with_stage_and_step(data: Path, tmp_path: Path) -> None:
    params = changed(tmp_path, optimiser={"name": "rmsprop", "learning_rate": 1e30}, warmup_steps=0)
    with pytest.raises(FloatingPointError, match=r"stage low, step [2-6]: expected a finite loss, got (nan|inf)"):
        run(params, data, tmp_path)
    assert not (tmp_path / "out").exists()


def test_data_of_another_scale_factor_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"S1.h5: expected slices under S=2 .* stage low"):
        train_stage(changed(tmp_path), "low", SliceFile(data / "S1.h5"), tmp_path / "out", tmp_path / "runs", CPU)


def test_a_seed_is_63_bits_of_the_digest_of_its_key() -> None:
    assert derive_seed(1, "epoch", 20) == int(hashlib.sha256(b"1/epoch/20").hexdigest()[:16], 16) // 2


def test_every_epoch_shows_every_image_once() -> None:
    epochs = torch.cat([batch_indices(1, step, num_images=10, batch_size=4) for step in range(5)])
    assert epochs[:10].sort().values.tolist() == epochs[10:].sort().values.tolist() == list(range(10))
    assert epochs[:10].tolist() != epochs[10:].tolist()


def test_another_seed_is_another_order() -> None:
    orders = {tuple(batch_indices(seed, 0, 20, 20).tolist()) for seed in range(3)}
    assert len(orders) == 3


def test_a_batch_may_be_larger_than_the_data() -> None:
    counts = batch_indices(1, 0, num_images=3, batch_size=8).bincount(minlength=3)
    assert sorted(counts.tolist()) == [2, 3, 3]


def test_slices_are_drawn_uniformly() -> None:
    targets = ((0, 1), (1, 0), (1, 1))
    drawn = draw_positions(targets, 9000, seeded("positions"))
    for target in targets:
        share = (drawn == torch.tensor(target)).all(1).double().mean().item()
        assert abs(share - 1 / 3) < 5 * math.sqrt(2 / 9 / 9000)


def test_the_learning_rate_warms_up_and_decays(tmp_path: Path) -> None:
    section = changed(tmp_path, steps=100, warmup_steps=10).stages["low"].training
    rates = [learning_rate(section, step) for step in range(100)]
    # Eleven equal steps up to the peak of 0.01; then half a turn in ninety, of which 45 are a quarter.
    assert rates[:11] == pytest.approx([0.01 * share / 11 for share in range(1, 12)])
    assert rates[10::15] == pytest.approx([0.005 * (1 + math.cos(math.pi * share / 6)) for share in range(6)])
    assert rates[55] == pytest.approx(0.005)
    assert rates[-1] == pytest.approx(0.005 * (1 - math.cos(math.pi / 90)))
    assert all(early > late for early, late in pairwise(rates[10:]))
