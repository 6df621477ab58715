"""Trainings killed, stopped and doubled: nothing is lost, and the weights are those of an uninterrupted one."""

import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment import read_history, tiny_params
from processes import make_experiment, start, train_command

from spn.checkpoint import load_tensors
from spn.cli import main
from spn.notes import read_tensor_notes
from spn.tracking import load_experiment
from spn.training import trainer
from spn.training.history import Row

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

STEPS = 400
KILLS = 20
STAGE = "low"
STATE = "runs/low-*.safetensors"
SHORT = "high"
TIMES = {"images_per_second", "training_seconds"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny experiment with one long stage and one short, both trained without interruption."""
    params = tiny_params()
    params["stages"][STAGE]["training"] |= {"steps": STEPS, "validate_every": 5}
    params["stages"][SHORT]["training"] |= {"steps": 40, "validate_every": 25}
    folder = make_experiment(tmp_path_factory.mktemp("kill"), params)
    whole = start(folder, train_command(STAGE, "whole"))
    whole.join()
    assert whole.exitcode == 0, log_of(folder, "log")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(trainer, "ROWS", 4)
        assert main(train_command(SHORT, "short")) == 0
    return folder


def assert_as_whole(folder: Path, place: str, other: str) -> None:
    """Compare weights and history with those of the uninterrupted training; what is timed may differ."""
    (weights, notes), (whole, other_notes) = (
        load_tensors(folder / each / "checkpoint.safetensors") for each in (place, other)
    )
    assert weights.keys() == whole.keys()
    assert all(torch.equal(weights[name], whole[name]) for name in whole)
    assert untimed(notes["history"]) == untimed(other_notes["history"])
    assert untimed(read_history(folder / place / "history.csv")) == untimed(notes["history"])


def untimed(rows: list[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def assert_curve_is_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training's run in MLflow is finished, and has every row of the history once."""
    monkeypatch.chdir(folder)
    experiment = load_experiment(Path("experiment.json"))
    (run,) = experiment.client.search_runs([experiment.id], f"attributes.run_name = '{STAGE}'")
    curve = experiment.client.get_metric_history(run.info.run_id, "train_bits_per_dim_estimate")
    assert [point.step for point in curve] == [row["step"] for row in read_history(Path("whole/history.csv"))]
    assert run.info.status == "FINISHED"


def step_of(folder: Path, place: str) -> int:
    """Return the step of the saved state, which is a whole file at any moment; 0 where there is none."""
    states = list((folder / place).glob(STATE))
    return read_tensor_notes(states[0])["step"] if states else 0


def wait_until(condition: Callable[[], bool], process: BaseProcess, pause: float = 0.01) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive(), "ended before it was interrupted"
        assert time.monotonic() < deadline
        time.sleep(pause)


def kill_at_random(process: BaseProcess, moments: random.Random) -> None:
    time.sleep(moments.uniform(0.1, 1.0))  # from its start on
    assert process.is_alive(), "ended before it was killed"
    process.kill()
    process.join()


def kill_while_writing(process: BaseProcess, folder: Path) -> bool:
    """Kill a training, some steps on, as soon as it begins to write its state; tell whether that got its name yet."""
    before, runs, name = step_of(folder, "out"), folder / "out/runs", f".*.{process.pid}"
    wait_until(lambda: step_of(folder, "out") > before, process)
    wait_until(lambda: any(runs.glob(name)), process, pause=0)
    process.kill()
    process.join()
    return not any(runs.glob(name))


def log_of(folder: Path, name: str) -> str:
    path = folder / name
    return path.read_text() if path.exists() else ""


def test_whatever_kills_a_training_nothing_is_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = train_command(STAGE)

    # SIGKILL, twenty times in a row: at random moments, from the start of the process on, and while it writes.
    moments, steps, torn = random.Random(1), [0], 0
    for kill in range(KILLS):
        process = start(folder, command)
        if kill % 2:
            kill_at_random(process, moments)
        else:
            torn += not kill_while_writing(process, folder)
        assert process.exitcode == -signal.SIGKILL
        steps.append(step_of(folder, "out"))  # which reads the state: it is whole
        assert not list((folder / "out").glob("*.*"))
    assert steps == sorted(steps)
    assert 0 < steps[KILLS // 2] < steps[-1] < STEPS
    assert torn >= KILLS // 10, "no kill met a file that was being written"

    # SIGTERM, as a cluster preempts: it saves and leaves within ten seconds.
    process = start(folder, command, "stopped.log")
    wait_until(lambda: step_of(folder, "out") > steps[-1], process)
    process.terminate()
    process.join(10)
    assert process.exitcode == 128 + signal.SIGTERM
    step = step_of(folder, "out")
    said = log_of(folder, "stopped.log")
    assert f"stage low: stopped by SIGTERM and saved after step {step}; the same command continues from there" in said
    assert "Traceback" not in said

    # Two at once, as when Snakemake is killed and its Slurm job is not: the second waits, and takes over.
    first = start(folder, command, "first.log")
    wait_until(lambda: step_of(folder, "out") > step, first)
    second = start(folder, command, "second.log")
    wait_until(lambda: "low: waiting for another process that trains it" in log_of(folder, "second.log"), second)
    first.kill()
    first.join()
    step = step_of(folder, "out")
    second.join(300)
    assert second.exitcode == 0
    assert f" {step}/{STEPS} " in log_of(folder, "second.log")

    assert_as_whole(folder, "out", "whole")
    assert_curve_is_whole(folder, monkeypatch)
    # What dead processes left half written is cleared away.
    assert {path.suffix for path in (folder / "out/runs").glob(".*")} == {".lock"}


@pytest.mark.parametrize("method", ["train_step", "validate"])
def test_sigterm_amid_a_step_or_a_validation_loses_no_row(
    folder: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(trainer, "ROWS", 4)  # so that the losses of some steps wait for their row
    work = getattr(trainer.Trainer, method)

    def interrupted(training: trainer.Trainer, *arguments: Any) -> Any:
        if training.state.step == 25:
            os.kill(os.getpid(), signal.SIGTERM)
        return work(training, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, method, interrupted)
        assert main(train_command(SHORT, method)) == 128 + signal.SIGTERM
    (state,) = (folder / method / "runs").glob("high-*.safetensors")
    assert read_tensor_notes(state)["step"] == {"validate": 25, "train_step": 26}[method]
    assert main(train_command(SHORT, method)) == 0
    assert_as_whole(folder, method, "short")
