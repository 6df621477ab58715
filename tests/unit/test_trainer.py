"""The loop around the steps: what it shows, when it saves, what a saved state has, and what it hands on."""

import errno
import fcntl
import hashlib
import itertools
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment import tiny_params, write_params
from torch import Tensor, nn

from spn.checkpoint import load_tensors, write_tensors
from spn.config import InputError, Params, load_params
from spn.data.hdf5 import SliceFile
from spn.data.preprocess import write_slices
from spn.files import WriteError
from spn.provenance import stage_recipe
from spn.training import TerminatedError, lock, parallel, saving, train, train_stage, trainer
from spn.training.history import Row, history_columns, history_text
from spn.training.state import TrainingState

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    section = load_params(write_params(folder, tiny_params())).data
    write_slices(section, 2, (0, 2, 5), folder / "sources", folder / "low.h5", progress=False)
    return folder / "low.h5"


def params_of(folder: Path, **training: object) -> Params:
    raw = tiny_params()
    raw["stages"]["low"]["training"] |= training
    return load_params(write_params(folder, raw))


def trainer_of(data: Path, folder: Path, **training: object) -> trainer.Trainer:
    params, file = params_of(folder, **training), SliceFile(data)
    return trainer.Trainer(params, "low", file, stage_recipe(params, "low", file.digest), CPU)


class Clock:
    """A clock that is moved by hand."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(trainer, "time", clock)
    return clock


def ticking(training: trainer.Trainer, clock: Clock, *seconds: float) -> None:
    """Let steps take so many seconds, in turn."""
    step, durations = training.train_step, itertools.cycle(seconds)

    def slow() -> Any:
        clock.now += next(durations)
        return step()

    training.train_step = slow  # type: ignore[method-assign]


def test_the_bar_tells_stage_steps_and_figures(
    data: Path, tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    training = trainer_of(data, tmp_path, steps=4, validate_every=4, batch_size=8)
    ticking(training, clock, 2.0)
    rows: list[Row] = []
    training.advance(tmp_path / "state.safetensors", rows.append)
    last = capsys.readouterr().err.rsplit("\r", 1)[-1]
    figures = f"{rows[-1]['train_bits_per_dim_estimate']:.3f} bits/dim, 4 images/s"
    validation = f"validation {rows[-1]['validation_bits_per_dim_estimate']:.3f}"
    assert last.startswith("low: 100%")
    assert " 4/4 [" in last
    assert re.search(r"[0-9?](s/step|step/s)", last)
    assert f"{figures}, {validation}" in last


def test_the_bar_of_a_training_that_goes_on_begins_where_it_is(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = trainer_of(data, tmp_path, steps=4, validate_every=4)
    training.state.step = 3
    training.state.history = [{"step": 3, "training_seconds": 1.0}]
    training.advance(tmp_path / "state.safetensors", lambda row: None)
    shown = capsys.readouterr().err.split("\r")
    assert " 3/4 [" in shown[1]
    assert " 4/4 [" in shown[-1]


def test_a_process_that_is_not_the_first_shows_and_saves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer, "is_first", lambda: False)
    trainer_of(data, tmp_path, steps=2, validate_every=2).advance(tmp_path / "state.safetensors", lambda row: None)
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "state.safetensors").exists()


@pytest.mark.parametrize(
    ("seconds", "saved"), [(1.0, [6, 10]), (trainer.SAVE_SECONDS / 2, [3, 6, 9, 10]), (100.0, [*range(1, 11)])]
)
def test_a_state_is_saved_at_validations_and_when_a_minute_has_passed(
    data: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: float, saved: list[int]
) -> None:
    training, found = trainer_of(data, tmp_path, steps=10, validate_every=6), list[int]()
    ticking(training, clock, seconds)
    monkeypatch.setattr(TrainingState, "save", lambda state, *others: found.append(state.step))
    training.advance(tmp_path / "state.safetensors", lambda row: None)
    assert sorted({*found}) == saved


def test_a_row_tells_seconds_images_and_validation(data: Path, tmp_path: Path, clock: Clock) -> None:
    training = trainer_of(data, tmp_path, steps=4, validate_every=2, batch_size=8)
    ticking(training, clock, 1.0, 2.0, 4.0, 8.0)
    rows, figures = list[Row](), iter([1.5, 2.5])
    training.validate = lambda *arguments: next(figures)  # type: ignore[method-assign]
    training.advance(tmp_path / "state.safetensors", rows.append)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["training_seconds"] for row in rows] == [1.0, 3.0, 7.0, 15.0]
    assert [row["images_per_second"] for row in rows] == [8.0, 4.0, 2.0, 1.0]
    assert [row.get("validation_bits_per_dim_estimate") for row in rows] == [None, 1.5, None, 2.5]


def test_rows_come_at_whole_shares_of_the_steps(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "ROWS", 2)
    rows: list[Row] = []
    trainer_of(data, tmp_path, steps=5, validate_every=5).advance(tmp_path / "state.safetensors", rows.append)
    assert [row["step"] for row in rows] == [2, 4, 5]


def test_sigterm_is_told_with_stage_and_step_and_the_state_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "ROWS", 1)  # so that the losses of three steps wait for their row
    training, state = trainer_of(data, tmp_path, steps=6, validate_every=6), tmp_path / "state.safetensors"
    step = training.train_step

    def interrupted() -> Any:
        pending = step()
        if training.state.step == 3:
            signal.raise_signal(signal.SIGTERM)
        return pending

    training.train_step = interrupted  # type: ignore[method-assign]
    with pytest.raises(TerminatedError, match=r"^stage low: stopped by SIGTERM and saved after step 3$"):
        training.advance(state, lambda row: None)
    resumed = trainer_of(data, tmp_path, steps=6, validate_every=6)
    resumed.state.restore(state)
    assert (resumed.state.step, len(resumed.state.pending)) == (3, 3)
    for kept, restored in zip(training.state.pending, resumed.state.pending, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(kept, restored, strict=True))


def test_training_goes_on_while_its_state_is_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, state = trainer_of(data, tmp_path, steps=6, validate_every=2), tmp_path / "state.safetensors"
    step, begun, held = training.train_step, list[int](), threading.Event()

    def write(path: Path, *content: Any) -> None:
        begun.append(training.state.step)
        if len(begun) == 1:
            assert held.wait(60), "no step was taken while the state was written"
        write_tensors(path, *content)
        found.append(load_tensors(path))

    def stepping() -> Any:
        if training.state.step == 3:
            held.set()
        return step()

    found: list[Any] = []
    monkeypatch.setattr(saving, "write_tensors", write)
    training.train_step = stepping  # type: ignore[method-assign]
    training.advance(state, lambda row: None)
    # The first state is that of step 2, although step 3 had been taken when it was written; the last is whole.
    assert [notes["step"] for _, notes in found] == [2, 4, 6]
    other = trainer_of(data, tmp_path, steps=6, validate_every=2)
    for _ in range(2):
        other.train_step()
    for name, weight in other.model.state_dict().items():
        assert torch.equal(found[0][0][f"model.{name}"], weight)


def test_a_state_that_could_not_be_written_ends_the_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *content: Any) -> None:
        raise WriteError(f"{path}: could not be written: No space left on device")

    monkeypatch.setattr(saving, "write_tensors", full)
    training, state = trainer_of(data, tmp_path, steps=6, validate_every=2), tmp_path / "state.safetensors"
    with pytest.raises(WriteError, match="No space left"):
        training.advance(state, lambda row: None)
    assert training.state.step == 4, "noticed when the next state is saved"


def test_a_state_of_another_recipe_is_named(data: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    trainer_of(data, tmp_path).state.save(state)
    other = trainer_of(data, tmp_path, steps=7)
    with pytest.raises(InputError, match=rf"^{state}: made from another recipe"):
        other.state.restore(state)


@pytest.mark.parametrize(
    ("options", "handed_on"),
    [
        ({}, (False, False, None)),
        ({"compiled": True, "recompute": True, "micro_batch": 2}, (True, True, 2)),
    ],
)
def test_what_belongs_to_the_machine_is_handed_on(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    handed_on: tuple[bool, bool, int | None],
) -> None:
    given: list[tuple[object, ...]] = []

    def noted(*arguments: object) -> None:
        given.append(arguments)
        raise InterruptedError

    monkeypatch.setattr(train, "Trainer", noted)
    with pytest.raises(InterruptedError):
        train_stage(params_of(tmp_path), "low", SliceFile(data), tmp_path / "out", tmp_path / "runs", CPU, **options)
    assert given[0][-3:] == handed_on


@pytest.mark.parametrize("compiled", [False, True])
def test_the_loss_is_made_for_the_device(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    monkeypatch.setattr(trainer, "parallel_nats", lambda *arguments: arguments)
    params, file = params_of(tmp_path), SliceFile(data)
    made = trainer.Trainer(params, "low", file, stage_recipe(params, "low", file.digest), CPU, compiled)
    given: Any = made._nats
    assert given == (made.stage, made.model, CPU, compiled)


def test_a_checkpoint_vouches_for_its_history(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train_stage(params_of(tmp_path, steps=2, validate_every=2), "low", SliceFile(data), out, tmp_path / "runs", CPU)
    history = (out / "history.csv").read_bytes()
    assert load_tensors(out / "checkpoint.safetensors")[1]["files"] == {
        "history.csv": hashlib.sha256(history).hexdigest()
    }


def test_a_history_is_a_table_of_lines() -> None:
    columns = history_columns()
    row: Row = dict.fromkeys(columns, 1)
    assert history_text([row]) == f"{','.join(columns)}\n{','.join('1' * len(columns))}\n"


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("processes", [1, 2])
def test_several_processes_compute_the_same_nats(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, compiled: bool
) -> None:
    raw = tiny_params()
    raw["stages"]["low"]["class_conditional"] = True
    params, file = load_params(write_params(tmp_path, raw)), SliceFile(data)
    training = trainer.Trainer(params, "low", file, stage_recipe(params, "low", file.digest), CPU)
    training.model.eval()
    compilations, groups = list[tuple[object, object]](), list[object]()

    def compile_nothing(function: Callable[..., Tensor], options: dict[str, object]) -> Callable[..., Tensor]:
        compilations.append((function, options))
        return function

    def average_nothing(module: nn.Module, process_group: object, **options: object) -> nn.Module:
        groups.append(process_group)
        return module

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr(parallel, "num_processes", lambda: processes)
    monkeypatch.setattr(parallel, "gradient_group", {CPU: "the group"}.__getitem__)
    monkeypatch.setattr(parallel, "DistributedDataParallel", average_nothing)
    nats: Callable[..., Tensor] = parallel.parallel_nats(training.stage, training.model, CPU, compiled)
    options = {"fallback_random": True, "layout_optimization": False, "cpp.use_decompose_tanh": True}
    assert compilations == [(training.stage.loss, options)] * compiled
    assert isinstance(nats, nn.Module) == (processes > 1)
    assert groups == ["the group"] * (processes > 1)
    batch = training._batch(0)
    assert torch.equal(nats(*batch), training.stage.nats(training.model, *batch))


def test_every_process_initialises_by_the_whole_first_batch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And takes its steps by its share."""
    monkeypatch.setattr(trainer, "share", lambda whole: whole[:3])
    training, given = trainer_of(data, tmp_path), list[Any]()
    monkeypatch.setattr(training.learner, "initialise", given.append)
    training.initialise()
    indices, positions = training.learner.draw(0, 100)
    slices = SliceFile(data).slices("train", indices)
    for batch, size in ((given[0], 8), (training._batch(0), 3)):
        assert torch.equal(batch[0], slices[:size])
        assert torch.equal(batch[1], positions[:size])
        assert batch[2] is None


def test_a_gradient_that_is_not_finite_is_told_with_stage_step_and_weight(data: Path, tmp_path: Path) -> None:
    training = trainer_of(data, tmp_path)
    step = training.train_step

    def exploding() -> Any:
        loss, norm, culprit = step()
        return loss, norm + torch.inf, torch.full_like(culprit, 2)

    training.train_step = exploding  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError) as caught:
        training.advance(tmp_path / "state.safetensors", lambda row: None)
    weight = [name for name, each in training.model.named_parameters() if each.grad is not None][2]
    told = f"stage low, step 1: expected a finite gradient, got a norm of inf for {weight}"
    assert str(caught.value) == told


def recipe_of(data: Path, folder: Path) -> dict[str, Any]:
    return stage_recipe(params_of(folder), "low", SliceFile(data).digest)


def test_a_second_training_waits_for_the_first(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("spn.lock.POLL_SECONDS", 0.01)
    recipe, runs, order = recipe_of(data, tmp_path), tmp_path / "runs", list[str]()
    state = lock.state_path(runs, recipe)
    assert state.parent == runs
    assert re.fullmatch(r"low-[0-9a-f]{16}\.safetensors", state.name)
    runs.mkdir()
    with state.with_name(f".{state.stem}.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def second() -> None:
            with lock.training_lock(runs, recipe):
                order.append("second")

        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert capsys.readouterr().err == "low: waiting for another process that trains it now\n"


def test_a_file_system_without_locks_is_told_of(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock.training_lock(tmp_path / "runs", recipe_of(data, tmp_path)):
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(".lock: not locked, so do not train this stage twice at once: [Errno 38] no locks here")
