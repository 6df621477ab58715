"""An SQLite database with MLflow's schema, there as a whole or not at all.

MLflow makes a new database in seventy migrations, in about a second. A process that is killed meanwhile leaves a
database with some of them, which MLflow cannot continue: a column or a table "already exists" from then on.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from spn.files import WriteError, replacing

_SEEDED = {"alembic_version", "workspaces"}
"""Tables that have rows before anything is recorded."""


def prepare(database: Path) -> None:
    """Make a database that does not exist, and empty one whose making was broken off, so that MLflow makes it anew.

    For one process at a time. A database that holds anything, even the experiment that MLflow makes by itself in the
    end, is left alone. Raises WriteError where the file system refuses.
    """
    if database.exists():
        _empty_half_made(database)
    else:
        _make(database)


def _make(database: Path) -> None:
    with replacing(database) as temporary:
        store = SqlAlchemyStore(  # type: ignore[no-untyped-call]
            f"sqlite:///{temporary.absolute()}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
        )
        store.engine.dispose()  # which closes every connection, before the file has another name
        if database.exists():
            raise WriteError(f"{database}: another program has made it meanwhile; run the same command again")


def _empty_half_made(database: Path) -> None:
    """Drop all tables in one transaction, where they are MLflow's and nothing is in them."""
    try:
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            tables = _tables(connection)
            if _are_mlflows(tables) and not any(_has_rows(connection, name) for name in tables - _SEEDED):
                for name in tables:
                    connection.execute(f'DROP TABLE "{name}"')
                connection.execute("COMMIT")
    except sqlite3.Error:
        return  # locked, or no database at all: MLflow says so when it opens it


def _tables(connection: sqlite3.Connection) -> set[str]:
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return {name for (name,) in names}


def _are_mlflows(tables: set[str]) -> bool:
    # The first that is made; a migration puts a table of the second name in its place.
    return bool(tables & {"experiments", "_alembic_tmp_experiments"})


def _has_rows(connection: sqlite3.Connection, table: str) -> bool:
    return connection.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone() is not None
