"""Copies of experiments, whose MLflow store is as one that was made in the copy."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path


def copy_experiment(source: Path, target: Path) -> Path:
    """Copy a folder, file times and store included; return the copy."""
    shutil.copytree(source, target, symlinks=True)
    if (database := target / "mlflow.db").exists():
        move_artefacts(database, source, target)
    return target


def move_artefacts(database: Path, source: Path, target: Path) -> None:
    """Change the absolute paths that MLflow keeps in a database, from those in one folder to those in another."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
        ):
            paths = (f"{source}/mlruns/", f"{target}/mlruns/")
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", paths)
