"""Training against small references written by hand: averages, schedules, optimisers, draws, validation, losses.

Elsewhere training is compared with training, which a formula that is wrong everywhere survives.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiment import tiny_params, write_params
from torch import Tensor, nn

from spn.config import AdamW, Params, RMSProp, StagePlan, TrainingSection, load_params
from spn.data.hdf5 import SliceFile
from spn.data.preprocess import write_slices
from spn.models import Model, build_model
from spn.provenance import stage_recipe
from spn.seeds import derive_seed, seeded
from spn.stages import Stage
from spn.training.batches import batch_indices, draw_positions
from spn.training.ema import EmaModel
from spn.training.optimiser import build_optimiser, learning_rate
from spn.training.step import Learner
from spn.training.trainer import Trainer
from spn.training.validation import figure_of_image

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    section = load_params(write_params(folder, tiny_params())).data
    write_slices(section, 2, (0, 2, 5), folder / "sources", folder / "low.h5", progress=False)
    write_slices(section, 1, (0, 5), folder / "sources", folder / "raster.h5", progress=False)
    return folder


def loaded(folder: Path, seed: int = 1, **training: object) -> Params:
    raw = tiny_params() | {"seed": seed}
    for stage in raw["stages"].values():
        stage["training"] |= training
    return load_params(write_params(folder, raw))


def trainer_of(folder: Path, stage: str = "low", seed: int = 1, **training: object) -> Trainer:
    params = loaded(folder, seed, **training)
    file = SliceFile(folder / f"{'raster' if stage == 'raster' else 'low'}.h5")
    return Trainer(params, stage, file, stage_recipe(params, stage, file.digest), CPU)


class Weights(Model):
    """A model that has weights, and does nothing."""

    embed_target = embed_context = laws = steps = None  # type: ignore[assignment]

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.full(shape, 2.0)))


def weights_of(model: nn.Module) -> list[np.ndarray]:
    return [weight.detach().double().numpy().copy() for weight in model.parameters()]


# Averages.


@pytest.mark.parametrize(
    ("step", "kept"), [(0, 1 / 10), (1, 2 / 11), (8, 9 / 18), (80, 81 / 90), (81, 0.9), (10_000, 0.9)]
)
def test_an_average_moves_by_one_minus_its_decay(step: int, kept: float) -> None:
    """Decay 0.9; the ramp (1 + t) / (10 + t) is below it up to step 80."""
    model = Weights(matrix=(3, 2), bias=(2,))
    average = EmaModel(model, decay=0.9)
    assert not any(weight.requires_grad for weight in average.model.parameters())
    before = weights_of(average.model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight))
    average.update(step)
    for old, live, new in zip(before, weights_of(model), weights_of(average.model), strict=True):
        np.testing.assert_allclose(new, kept * old + (1 - kept) * live, rtol=1e-5, atol=1e-6)


def test_every_step_moves_the_averages_by_its_own_decay(folder: Path) -> None:
    trainer = trainer_of(folder)
    expected = weights_of(trainer.state.average.model)
    for step in range(3):
        trainer.train_step()
        kept = (1 + step) / (10 + step)
        live = weights_of(trainer.model)
        expected = [kept * old + (1 - kept) * new for old, new in zip(expected, live, strict=True)]
        for actual, each in zip(weights_of(trainer.state.average.model), expected, strict=True):
            np.testing.assert_allclose(actual, each, rtol=1e-4, atol=1e-6)


# Validation.


@pytest.mark.parametrize("stage", ["raster", "low"])
def test_validation_is_that_of_the_averaged_weights_without_dropout(folder: Path, stage: str) -> None:
    trainer = trainer_of(folder, stage)
    generator = torch.Generator().manual_seed(3)
    averaged = trainer.state.average.model
    with torch.no_grad():
        for weight in averaged.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    actual = trainer.validate()

    file = SliceFile(folder / f"{stage}.h5")
    targets, count = trainer.stage.targets, file.num_images("validation")
    drawn = draw_positions(targets, count, seeded(1, "validation"))
    slices = file.slices("validation", torch.arange(count))

    def direct(model: Any) -> float:
        nats = 0.0
        with torch.inference_mode():
            for image, position in enumerate(drawn):
                levels = trainer.stage.target(slices[image : image + 1], position[None])
                context = trainer.stage.context(slices[image : image + 1], position[None])
                probs = model(levels, context).probs().double().numpy()
                nats -= np.log(np.take_along_axis(probs, levels[..., None].numpy(), -1)).sum()
        return nats / count * len(targets) / (8 * 8) / math.log(2)

    assert actual == pytest.approx(direct(averaged), rel=1e-5)
    assert abs(direct(averaged) - direct(trainer.model.eval())) > 1e-3


# What a step draws.


def drawn(trainer: Trainer, steps: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield what each step is given: its slices, the places that it drew, and what dropout would draw."""
    given: list[tuple[Tensor, Tensor, Tensor]] = []
    sound = trainer._nats

    def note(slices: Tensor, position: Tensor, labels: Tensor | None) -> Tensor:
        state = torch.get_rng_state()
        given.append((slices.clone(), position.clone(), torch.rand(8)))
        torch.set_rng_state(state)
        return sound(slices, position, labels)

    trainer._nats = note
    for _ in range(steps):
        trainer.train_step()
        yield given.pop()


def test_draws_are_functions_of_seed_stage_and_step(folder: Path) -> None:
    # Batches of 100 images are all of them: what differs between steps is not the images alone.
    first = list(drawn(trainer_of(folder, batch_size=100), 3))
    torch.manual_seed(1234)
    again = list(drawn(trainer_of(folder, batch_size=100), 3))
    for one, two in zip(first, again, strict=True):
        assert all(torch.equal(left, right) for left, right in zip(one, two, strict=True))
    others = [
        first[1],
        first[2],
        next(drawn(trainer_of(folder, batch_size=100, seed=2), 1)),
        next(drawn(trainer_of(folder, stage="high", batch_size=100), 1)),
    ]
    for other in others:
        assert not torch.equal(other[1], first[0][1])
        assert not torch.equal(other[2], first[0][2])
    assert not torch.equal(first[1][0], first[0][0])


def test_a_step_draws_the_same_wherever_training_began(folder: Path) -> None:
    *_, third = drawn(trainer_of(folder), 3)
    resumed = trainer_of(folder)
    resumed.state.step = 2
    alone = next(drawn(resumed, 1))
    assert all(torch.equal(left, right) for left, right in zip(third, alone, strict=True))


@pytest.mark.parametrize(("process", "key"), [(0, ()), (1, (1,))])
def test_every_draw_has_a_key_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch, process: int, key: tuple[int, ...]
) -> None:
    """Keys are part of what a recipe means: other ones would be other weights."""
    params = loaded(folder)
    learner = Learner(params, "low", CPU)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(1, "low", "weights"))
        fresh = build_model(params.stages["low"].model, learner.stage.shape)
    assert all(torch.equal(*pair) for pair in zip(learner.model.parameters(), fresh.parameters(), strict=True))
    indices, positions = learner.draw(5, 100)
    assert torch.equal(indices, batch_indices(1, 5, 100, 8))
    assert torch.equal(positions, draw_positions(learner.stage.targets, 8, seeded(1, "low", "slices", 5)))

    monkeypatch.setattr("spn.training.step.rank", lambda: process)
    states: list[Tensor] = []
    file = SliceFile(folder / "low.h5")

    def nats(*batch: Any) -> Tensor:
        states.append(torch.get_rng_state())
        return learner.stage.nats(learner.model, *batch)

    learner.take(5, (file.slices("train", indices), positions, None), nats)
    torch.manual_seed(derive_seed(1, "low", "dropout", 5, *key))
    assert torch.equal(states[0], torch.get_rng_state())


def test_all_of_a_learner_is_on_its_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta, devices = torch.device("meta"), list[torch.device]()

    def built(plan: StagePlan, shape: tuple[int, int, int], device: torch.device = CPU) -> Stage:
        devices.append(device)
        return Stage(plan, shape, device)

    monkeypatch.setattr("spn.training.step.build_stage", built)
    learner = Learner(loaded(folder), "low", meta)
    assert devices == [meta], "where the stage keeps its indices"
    assert {weight.device for weight in (*learner.model.parameters(), *learner.average.model.parameters())} == {meta}


# Losses.


def test_the_estimate_of_a_row_is_of_all_slices_in_bits_per_sub_pixel(folder: Path) -> None:
    trainer = trainer_of(folder, steps=4, validate_every=4)
    rows: list[Any] = []
    steps = []
    sound = trainer.train_step

    def step() -> tuple[Tensor, Tensor, Tensor]:
        steps.append(sound())
        return steps[-1]

    trainer.train_step = step  # type: ignore[method-assign]
    trainer.advance(folder / "state.safetensors", rows.append)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    # Two steps of warm-up, the peak, and a quarter of a turn in two.
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.005], rel=1e-12)
    for row, (loss, norm, _) in zip(rows, steps, strict=True):
        # A mean over drawn slices of 4x4 sub-pixels, of four that an image of 8x8 has.
        assert row["train_bits_per_dim_estimate"] == pytest.approx(4 * loss.item() / 64 / math.log(2), rel=1e-12)
        assert row["gradient_norm"] == pytest.approx(norm.item(), rel=1e-12)


@pytest.mark.parametrize(("share", "loss"), [(1, 1 / 4), (3, 6 / 4), (5, 15 / 4)])
def test_shares_are_weighted_so_that_their_average_is_the_mean_of_the_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, share: int, loss: float
) -> None:
    """Of a batch of eight in two processes: a sum over four, where images have the nats 1, 2, 3, ..."""
    monkeypatch.setattr("spn.training.step.num_processes", lambda: 2)
    learner = Learner(loaded(folder), "low", CPU)
    slices = SliceFile(folder / "low.h5").slices("train", torch.arange(share))
    batch, given = (slices, torch.zeros(share, 2, dtype=torch.int64), torch.arange(share)), list[Any]()

    def nats(*tensors: Any) -> Tensor:
        given.extend(tensors)
        return torch.arange(1.0, share + 1) + 0 * sum(weight.sum() for weight in learner.model.parameters())

    assert learner.take(0, batch, nats)[0].item() == pytest.approx(loss, rel=1e-6)
    assert all(one is other for one, other in zip(given, batch, strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_computes_in_the_precision_of_its_section(folder: Path, precision: str) -> None:
    learner = Learner(loaded(folder, precision=precision), "low", CPU)
    slices, types = SliceFile(folder / "low.h5").slices("train", torch.arange(8)), list[torch.dtype]()

    def nats(*batch: Any) -> Tensor:
        types.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return learner.stage.nats(learner.model, *batch)

    default = torch.get_autocast_dtype("cpu")
    torch.set_autocast_dtype("cpu", torch.float16)  # what a device does unless it is told
    try:
        learner.take(0, (slices, learner.draw(0, 100)[1], None), nats)
    finally:
        torch.set_autocast_dtype("cpu", default)
    assert types == [getattr(torch, precision)]


def test_gradients_are_of_nats_a_sub_pixel_and_clipped_to_the_norm(folder: Path) -> None:
    norms = {}
    for clip in (None, 1e-3):
        trainer = trainer_of(folder, clip_norm=clip)
        slices, position, labels = trainer._batch(0)
        trainer.model.eval()  # so that both passes are without dropout
        loss, norm, _ = trainer.train_step()
        norms[clip] = math.sqrt(
            sum(
                float(weight.grad.double().square().sum())
                for weight in trainer.model.parameters()
                if weight.grad is not None
            )
        )
        assert norm.item() == pytest.approx(norms[None], rel=1e-4)
        fresh = trainer_of(folder, clip_norm=clip)
        nats = fresh.stage.nats(fresh.model.eval(), slices, position, labels)
        assert loss.item() == pytest.approx(nats.mean().item(), rel=1e-6)
        (nats.mean() / 16).backward()
        if clip is None:  # not their norm alone, which has no sign
            for ours, direct in zip(trainer.model.parameters(), fresh.model.parameters(), strict=True):
                torch.testing.assert_close(ours.grad, direct.grad, rtol=1e-3, atol=1e-6)
        gradients = [weight.grad for weight in fresh.model.parameters() if weight.grad is not None]
        assert norm.item() == pytest.approx(math.sqrt(sum(float(each.square().sum()) for each in gradients)), rel=1e-4)
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)


# Schedules.


def training(**changes: object) -> TrainingSection:
    content = {
        "steps": 8,
        "batch_size": 4,
        "optimiser": {"name": "adamw", "learning_rate": 0.8},
        "warmup_steps": 3,
        "schedule": "constant",
        "ema_decay": 0.9,
        "validate_every": 8,
    }
    return TrainingSection.model_validate(content | changes)


HALF = math.sqrt(0.5)
RATES = {
    "constant": ({}, [0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8]),
    "exponential": ({"schedule": "exponential", "decay": 0.5}, [0.2, 0.4, 0.6, 0.8, 0.4, 0.2, 0.1, 0.05]),
    # Of a half turn in four: 1 + cos of 0, 45, 90 and 135 degrees.
    "cosine": (
        {"schedule": "cosine", "steps": 7},
        [0.2, 0.4, 0.6, 0.8, 0.4 * (1 + HALF), 0.4, 0.4 * (1 - HALF)],
    ),
    "without warm-up": ({"warmup_steps": 0, "schedule": "exponential", "decay": 0.5, "steps": 3}, [0.8, 0.4, 0.2]),
}


@pytest.mark.parametrize("name", RATES)
def test_learning_rates_are_those_by_hand(name: str) -> None:
    changes, expected = RATES[name]
    section = training(**changes)
    assert [learning_rate(section, step) for step in range(section.steps)] == pytest.approx(expected, rel=1e-12)


def test_every_step_is_taken_at_its_own_rate(folder: Path) -> None:
    trainer = trainer_of(
        folder, schedule="exponential", decay=0.5, optimiser={"name": "adamw", "learning_rate": 0.03}, steps=6
    )
    rates: list[float] = []
    for _ in range(4):
        trainer.train_step()
        rates += {group["lr"] for group in trainer.state.optimiser.param_groups}
    assert rates == pytest.approx([0.01, 0.02, 0.03, 0.015], rel=1e-12)


# Optimisers.


def test_weight_decay_shrinks_matrices_and_kernels_alone() -> None:
    model = Weights(matrix=(3, 2), kernel=(4, 2, 3, 3), bias=(5,), gain=(4, 1, 1, 1), number=())
    optimiser = build_optimiser(model, AdamW(name="adamw", learning_rate=0.1, weight_decay=0.5))
    assert optimiser.defaults["fused"], "one kernel for all weights"
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    shrunk = {name: float(weight.detach().flatten()[0]) for name, weight in model.named_parameters()}
    assert shrunk == pytest.approx({"matrix": 1.9, "kernel": 1.9, "bias": 2, "gain": 2, "number": 2}, rel=1e-6)


def test_adamw_takes_the_step_by_hand() -> None:
    model = Weights(one=())
    section = AdamW(name="adamw", learning_rate=0.1, betas=(0.8, 0.99), weight_decay=0.5)
    optimiser = build_optimiser(model, section)
    weight, first, second = float(model.get_parameter("one").detach()), 0.0, 0.0
    for step, gradient in enumerate((0.3, -0.1, 0.4), start=1):
        model.get_parameter("one").grad = torch.tensor(gradient)
        optimiser.step()
        first, second = 0.8 * first + 0.2 * gradient, 0.99 * second + 0.01 * gradient**2
        corrected = first / (1 - 0.8**step), math.sqrt(second / (1 - 0.99**step))
        # A single number is a vector, which weight decay spares.
        weight -= 0.1 * corrected[0] / (corrected[1] + 1e-8)
        assert float(model.get_parameter("one").detach()) == pytest.approx(weight, rel=1e-5)


def test_rmsprop_takes_the_step_by_hand() -> None:
    model = Weights(one=())
    section = RMSProp(name="rmsprop", learning_rate=0.1, smoothing=0.9, momentum=0.5)
    optimiser = build_optimiser(model, section)
    weight, square, velocity = float(model.get_parameter("one").detach()), 0.0, 0.0
    for gradient in (0.3, -0.1, 0.4):
        model.get_parameter("one").grad = torch.tensor(gradient)
        optimiser.step()
        square = 0.9 * square + 0.1 * gradient**2
        velocity = 0.5 * velocity + gradient / (math.sqrt(square) + 1e-8)
        weight -= 0.1 * velocity
        assert float(model.get_parameter("one").detach()) == pytest.approx(weight, rel=1e-5)


def test_a_row_is_the_mean_of_its_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spn.training.trainer.ROWS", 1)  # so that it covers all of them
    trainer, rows, steps = trainer_of(folder, steps=4, validate_every=4), list[Any](), list[Any]()
    sound = trainer.train_step

    def noting() -> Any:
        steps.append(sound())
        return steps[-1]

    monkeypatch.setattr(trainer, "train_step", noting)
    trainer.advance(folder / "state.safetensors", rows.append)
    (row,) = rows
    loss, norm = (sum(step[part].item() for step in steps) / 4 for part in (0, 1))
    assert row["gradient_norm"] == pytest.approx(norm, rel=1e-6)
    assert row["train_bits_per_dim_estimate"] == pytest.approx(figure_of_image(trainer.stage, loss), rel=1e-6)
