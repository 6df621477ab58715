"""Makes an SQLite database with MLflow's schema, whole or not at all.

MLflow makes a new database by seventy migrations, in about a second. If it is killed among them, it cannot use that
database again: a column or a table "already exists" from then on.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from spn.files import WriteError, replacing

_SEEDED = {"alembic_version", "workspaces"}
"""Tables that have rows in an empty store."""


def prepare(database: Path) -> None:
    """Make the database if it does not exist; empty it if its making was interrupted, so that MLflow starts again.

    Call it under a lock. A database with any content is left alone, even with only the default experiment, which MLflow
    makes last. Raises WriteError if the file system refuses.
    """
    if database.exists():
        _empty_half_made(database)
    else:
        _make(database)


def _make(database: Path) -> None:
    with replacing(database) as temporary:
        store = SqlAlchemyStore(f"sqlite:///{temporary.absolute()}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
        store.engine.dispose()  # closes every connection before the file is renamed
        if database.exists():
            raise WriteError(f"{database}: another program made it at the same time; run the same command again")


def _empty_half_made(database: Path) -> None:
    """Drop all tables in one transaction, if they are MLflow's and empty."""
    try:
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            tables = _tables(connection)
            if _are_mlflows(tables) and not any(_has_rows(connection, name) for name in tables - _SEEDED):
                for name in tables:
                    connection.execute(f'DROP TABLE "{name}"')
                connection.execute("COMMIT")
    except sqlite3.Error:
        return  # locked, or not a database: MLflow reports it when it opens the file


def _tables(connection: sqlite3.Connection) -> set[str]:
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return {name for (name,) in names}


def _are_mlflows(tables: set[str]) -> bool:
    # The first table that MLflow makes; one migration replaces it by way of the second.
    return bool(tables & {"experiments", "_alembic_tmp_experiments"})


def _has_rows(connection: sqlite3.Connection, table: str) -> bool:
    return connection.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone() is not None
