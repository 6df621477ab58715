"""A store whose making is broken off: the next process has a whole one, and an upgrade broken off is told of."""

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking.client import MlflowClient
from processes import context
from sqlalchemy import event
from sqlalchemy.engine import Engine
from tracked import open_at

from spn.config import InputError
from spn.files import write_json
from spn.tracking import load_experiment
from spn.tracking.schema import prepare

pytestmark = pytest.mark.slow

KILLS = 10
HANDLE = Path("mlflow/experiment.json")


def open_in(folder: Path) -> None:
    os.chdir(folder)
    said = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    open_at("sqlite:///mlflow.db", HANDLE)


def come_first(*folders: Path, kill_after: float | None = None) -> tuple[list[int | None], float]:
    """Open the experiments of folders in a process each, which may be killed; return their exit codes and the seconds.

    All from one thread: multiprocessing also polls the children of other threads, which then read no exit code (255).
    """
    processes = [context().Process(target=open_in, args=(folder,)) for folder in folders]
    started = time.monotonic()
    for folder, process in zip(folders, processes, strict=True):
        folder.mkdir(exist_ok=True)
        process.start()
    if kill_after is not None:
        time.sleep(kill_after)
        for process in processes:
            process.kill()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes], time.monotonic() - started


def names_in(database: Path) -> set[str]:
    return {each.name for each in MlflowClient(tracking_uri=f"sqlite:///{database}").search_experiments()}


@pytest.mark.slow
@pytest.mark.xdist_group("processes")
def test_a_kill_at_any_moment_leaves_no_store_or_a_whole_one(tmp_path: Path) -> None:
    come_first(tmp_path / "warm")
    codes, seconds = come_first(tmp_path / "undisturbed", tmp_path / "beside")
    assert codes == [0, 0]

    def killed_at(moment: float) -> list[Path]:
        for attempt in range(8):
            folders = [tmp_path / f"{moment}-{attempt}-{number}" for number in range(2)]
            codes, _ = come_first(*folders, kill_after=moment * 0.8**attempt)  # the machine may be slower or faster now
            if codes == [-signal.SIGKILL] * 2:
                return folders
        raise AssertionError(f"what is killed after {moment} s had always ended")

    folders = [folder for kill in range(KILLS // 2) for folder in killed_at(seconds * kill / (KILLS // 2))]
    for folder in folders:
        if (folder / "mlflow.db").exists():
            assert "Default" in names_in(folder / "mlflow.db")
    for pair in zip(folders[::2], folders[1::2], strict=True):
        assert come_first(*pair)[0] == [0, 0]
    for folder in folders:
        assert names_in(folder / "mlflow.db") == {"Default", "digits"}
        # What a dead process left half-made is cleared away.
        assert {path.name for path in folder.iterdir()} == {"log", "mlflow", "mlflow.db", "mlflow.db.lock"}


class BrokenOffError(Exception):
    """In place of a kill."""


@contextmanager
def broken_off(after: int) -> Iterator[None]:
    """Break off what any database does before its statement number `after`."""
    count = 0

    def stop(*_: Any) -> None:
        nonlocal count
        count += 1
        if count >= after:
            raise BrokenOffError

    event.listen(Engine, "before_cursor_execute", stop)
    try:
        with pytest.raises(BrokenOffError):
            yield
    finally:
        event.remove(Engine, "before_cursor_execute", stop)


def half_make(database: Path, statements: int) -> None:
    """Leave what MLflow by itself leaves when it is killed: a database with some of its migrations."""
    uri = f"sqlite:///{database}"
    with broken_off(statements):
        SqlAlchemyStore(uri, "./mlruns")
    SqlAlchemyStore._engine_map.pop(uri).dispose()


@pytest.mark.parametrize("statements", [1, 20, 100, 400, 800, 1200, 1600])
def test_a_half_made_database_is_made_whole(statements: int, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    half_make(database, statements)
    open_at(f"sqlite:///{database}", tmp_path / "experiment.json")
    assert names_in(database) == {"Default", "digits"}


def test_a_half_migrated_database_with_runs_is_told_of_and_left_alone(tmp_path: Path) -> None:
    experiment = open_at(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "experiment.json")
    experiment.client.create_run(experiment.id, run_name="kept")
    half = Path(shutil.copyfile(tmp_path / "mlflow.db", tmp_path / "half.db"))  # of which MLflow remembers nothing
    with closing(sqlite3.connect(half)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'bf29a5ff90ea'")  # after which come secrets
        connection.execute("DROP TABLE webhooks")  # or MLflow would not migrate by itself
    uri, handle = f"sqlite:///{half}", tmp_path / "half.json"
    with pytest.raises(
        InputError, match=r"table secrets already exists; MLflow was interrupted .* put back a copy"
    ) as made:
        open_at(uri, handle)
    write_json(handle, {"uri": uri, "id": experiment.id})
    with pytest.raises(InputError, match=rf"^{handle}: .*; MLflow was interrupted .* put back a copy") as loaded:
        load_experiment(handle)
    assert [len(str(each.value).splitlines()) for each in (made, loaded)] == [1, 1]
    with closing(sqlite3.connect(half)) as connection:
        assert connection.execute("SELECT name FROM runs").fetchall() == [("kept",)]


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE plans (name TEXT)")
    prepare(database)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("plans",)]
