"""A job of several trials, killed within one and between two: finished trials are not repeated, and none is lost."""

import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment import tiny_params
from processes import make_experiment, start, train_command
from tracked import CURVE, logged

from spn.checkpoint import load_tensors
from spn.notes import read_tensor_notes
from spn.tracking import load_experiment
from spn.training.history import Row

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

RATES = (0.01, 0.001, 0.02)
STEPS = 100
TIMES = {"images_per_second", "training_seconds"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny experiment, in which the stage `low` has trials."""
    params = tiny_params()
    params["stages"]["low"]["training"] |= {"steps": STEPS, "validate_every": 5}
    params["stages"]["low"]["trials"] = [{"optimiser": {"learning_rate": rate}} for rate in RATES]
    return make_experiment(tmp_path_factory.mktemp("trials"), params)


def steps_of(folder: Path) -> dict[float, int]:
    """Return the steps of the saved states, each a whole file at any moment, by the trials' learning rates."""
    notes = map(read_tensor_notes, (folder / "out/runs").glob("low-*.safetensors"))
    return {each["recipe"]["training"]["optimiser"]["learning_rate"]: each["step"] for each in notes}


def wait_until(condition: Callable[[], bool], process: BaseProcess) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive(), "ended before it was interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def untimed(rows: list[Row]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def test_whatever_kills_a_job_of_trials_nothing_is_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = train_command("low")
    first, second, _ = RATES

    # Within a trial, before its end is saved.
    process = start(folder, command)
    wait_until(lambda: steps_of(folder).get(first, 0) > 0, process)
    process.kill()
    process.join()
    assert steps_of(folder).keys() == {first}
    assert 0 < steps_of(folder)[first] < STEPS

    # Between two: the first is finished, and the second has saved nothing yet.
    process = start(folder, command)
    wait_until(lambda: steps_of(folder)[first] == STEPS, process)
    process.kill()
    process.join()
    assert steps_of(folder) == {first: STEPS}
    finished = {path: path.stat().st_mtime_ns for path in (folder / "out/runs").glob("low-*.safetensors")}

    # SIGTERM within the second: it is named, and its steps are kept.
    process = start(folder, command, "stopped.log")
    wait_until(lambda: steps_of(folder).get(second, 0) > 0, process)
    process.terminate()
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    steps = steps_of(folder)
    assert steps.keys() == {first, second}
    said = (folder / "stopped.log").read_text()
    told = (
        f"stage low, trial 2 of 3: stopped by SIGTERM and saved after step {steps[second]}; the same command continues"
    )
    assert told in said
    assert not (folder / "out/checkpoint.safetensors").exists()

    process = start(folder, command, "last.log")
    process.join(300)
    assert process.exitcode == 0
    done = STEPS + steps[second]
    bars = [line for line in (folder / "last.log").read_text().splitlines() if f"/{3 * STEPS} [" in line]
    assert f" {done}/" in bars[0]
    assert steps_of(folder) == dict.fromkeys(RATES, STEPS)
    assert all(path.stat().st_mtime_ns == moment for path, moment in finished.items())

    _, notes = load_tensors(folder / "out/checkpoint.safetensors")
    monkeypatch.chdir(folder)
    experiment = load_experiment(Path("experiment.json"))
    runs = {run.info.run_name: run for run in experiment.client.search_runs([experiment.id])}
    assert runs.keys() == {"low", *(f"low, trial {number} of 3" for number in (1, 2, 3))}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for number, trial in enumerate(notes["trials"], start=1):
        curve = [(row["step"], row[CURVE]) for row in trial["history"]]
        assert logged(experiment, runs[f"low, trial {number} of 3"].info.run_id) == curve

    # The same job, never interrupted.
    process = start(folder, train_command("low", "whole"))
    process.join(300)
    assert process.exitcode == 0
    (weights, notes), (whole, others) = (
        load_tensors(folder / each / "checkpoint.safetensors") for each in ("out", "whole")
    )
    assert weights.keys() == whole.keys()
    assert all(torch.equal(weights[name], whole[name]) for name in whole)
    assert notes["taken"] == others["taken"]
    for one, other in zip(notes["trials"], others["trials"], strict=True):
        assert untimed(one["history"]) == untimed(other["history"])
