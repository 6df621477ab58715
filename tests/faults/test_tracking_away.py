"""A store that is away: training goes on, nothing is written twice, and a person is told in one line."""

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from processes import context
from requests.exceptions import ConnectionError as NoAnswerError
from tracked import away, expected, logged, open_at, open_stage, rows, train_stage, wait_for

from spn.config import InputError
from spn.files import write_json
from spn.tracking import DEFAULT_URI, Experiment, TrackingError, default_uri, load_experiment, stage_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("base") / "store"
    return open_at(f"sqlite:///{folder}/mlflow.db", folder.with_name("experiment.json"))


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> str:
    """A name of its own for every test, so that tests can share a store."""
    return request.node.name


def assert_complete(experiment: Experiment, stage: str, last: int) -> None:
    """The same training, run again, finds its run and leaves it finished, with every row once."""
    run_id = train_stage(experiment, stage, last)
    assert experiment.client.get_run(run_id).info.status == "FINISHED"
    assert logged(experiment, run_id) == expected(last)


def test_training_goes_on_and_its_curve_is_complete(
    experiment: Experiment, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_stage(experiment, stage) as run:
        with away(experiment):
            for row in rows(4):
                run.measured(row)
            wait_for(lambda: run._delivery.failure)  # not by reading stderr, which drops what is written meanwhile
        for row in rows(6):
            run.measured(row)
    assert logged(experiment, run.run_id) == expected(6)
    assert experiment.client.get_run(run.run_id).info.status == "FINISHED"
    lost, back = capsys.readouterr().err.splitlines()
    assert lost.startswith(f"spn: lost the MLflow store {experiment.uri}: attempt to write a readonly database; ")
    assert back == f"spn: the MLflow store {experiment.uri} is back"


def test_training_does_not_wait_for_a_locked_database(experiment: Experiment, stage: str) -> None:
    with open_stage(experiment, stage) as run:
        lock = sqlite3.connect(experiment.uri.removeprefix("sqlite:///"))
        lock.execute("BEGIN EXCLUSIVE")
        for row in rows(5):
            run.measured(row)  # would wait for the lock, which is given back after it
        lock.close()
    assert logged(experiment, run.run_id) == expected(5)


def test_what_had_arrived_after_all_is_not_written_twice(
    experiment: Experiment, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = experiment.client.log_batch, []

    def log_batch(*arguments: Any, **named: Any) -> None:
        write(*arguments, **named)
        written.append(named["metrics"])
        if len(written) == 1:
            raise MlflowException("no answer") from NoAnswerError("connection reset")

    with open_stage(experiment, stage) as run:
        monkeypatch.setattr(experiment.client, "log_batch", log_batch)
        for row in rows(3):
            run.measured(row)
        wait_for(lambda: written)
    assert written[0] == written[1][: len(written[0])]
    assert logged(experiment, run.run_id) == expected(3)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_training_that_ends_while_the_store_is_away_says_so_and_is_completed_later(
    experiment: Experiment,
    stage: str,
    error: type[BaseException] | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(stage_run.PATIENCE, "FINISHED", 0.5)
    run = open_stage(experiment, stage)
    with away(experiment), pytest.raises(error) if error else nullcontext(), run:
        run.measured(rows(1)[0])
        if error:
            raise error
    assert not run.finished
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"spn: the MLflow store {experiment.uri} is away: attempt to write ")
    assert last.endswith("; the same command, or `spn record`, completes the run")
    assert_complete(experiment, stage, last=4)


def test_a_run_that_a_person_deletes_ends_no_training(
    experiment: Experiment, stage: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stage_run.PATIENCE, "FINISHED", 0.5)
    with open_stage(experiment, stage) as run:
        experiment.client.delete_run(run.run_id)
        for row in rows(2):
            run.measured(row)
    first, last = capsys.readouterr().err.splitlines()
    assert all("must be in the 'active' state" in line for line in (first, last))
    assert_complete(experiment, stage, last=4)


def leave(uri: str, experiment_id: str, stage: str) -> None:
    experiment = Experiment(uri, experiment_id)
    run = open_stage(experiment, stage)
    with away(experiment):
        run.measured(rows(1)[0])


def test_a_store_that_is_away_keeps_no_process_alive(experiment: Experiment, stage: str) -> None:
    process = context().Process(target=leave, args=(experiment.uri, experiment.id, stage), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == 0


@pytest.fixture(params=["refuses", "is unknown", "is silent"])
def unreachable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """The address of a server that is not there, and why."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        if request.param == "is silent":
            bound.listen()
        yield {
            "refuses": (address, "Connection refused"),
            "is unknown": ("http://nowhere.invalid:5000", r"\[Errno -\d\] "),
            "is silent": (address, "timed out"),
        }[request.param]


def test_a_server_that_does_not_answer_is_told_of_in_one_line(unreachable: tuple[str, str], tmp_path: Path) -> None:
    uri, why = unreachable
    handle = tmp_path / "experiment.json"
    with pytest.raises(TrackingError, match=f"expected the MLflow store {uri} to answer, got: .*{why}") as creating:
        open_at(uri, handle)
    assert not handle.exists()
    write_json(handle, {"uri": uri, "id": "1"})
    with pytest.raises(
        TrackingError, match=f"^{handle}: expected the MLflow store {uri} to answer, .*{why}"
    ) as loading:
        load_experiment(handle)
    assert [len(str(each.value).splitlines()) for each in (creating, loading)] == [1, 1]


@pytest.mark.parametrize("uri", ["nonsense://host", "./mlruns", "http://127.0.0.1:99999999", "sqlite:////proc/x/m.db"])
def test_what_is_no_store_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^expected an MLflow store at {uri}, got: .*") as caught:
        open_at(uri, tmp_path / "experiment.json")
    assert len(str(caught.value).splitlines()) == 1


def test_the_environment_names_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, store in {"http://tracking:5000": "http://tracking:5000", "": DEFAULT_URI}.items():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", value)
        assert default_uri() == store
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert default_uri() == DEFAULT_URI


def test_a_handle_of_another_store_than_the_environment_names_is_told_of(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = tmp_path / "experiment.json"
    write_json(handle, asdict(experiment))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", experiment.uri)
    load_experiment(handle)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert load_experiment(handle) == experiment
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"spn: {handle}: runs are recorded in {experiment.uri}, not in http://tracking:5000 ")
