"""The store and the experiment that all runs of a pipeline belong to."""

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.tracking.client import MlflowClient

from spn.config import InputError
from spn.tracking.views import view_path, view_tags

DEFAULT_URI = "sqlite:///mlflow.db"
"""MLflow's own default, so that plain `mlflow ui` in the working directory shows it."""

_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Experiment:
    """Where runs are recorded: the URI of a store, and the id of an experiment in it.

    The path in a `sqlite:///` URI may be relative to the working directory.
    """

    uri: str
    id: str

    @cached_property
    def client(self) -> MlflowClient:
        """A client of the store."""
        return MlflowClient(tracking_uri=_absolute(self.uri))

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes of this package out of the store; does nothing where the store is a server."""
        return _locked(self.uri)

    def view_url(self, kind: Literal["chain", "stage"], server: str = "http://127.0.0.1:5000") -> str:
        """Give the address at which `mlflow ui` shows the runs of a kind, the lowest bits/dim first."""
        return server.rstrip("/") + view_path(self.id, kind)


def create_experiment(uri: str, name: str, output: Path) -> Experiment:
    """Create the store and the experiment where they do not exist, and write the handle to `output`.

    Any number of processes may do so at once: MLflow's schema migration is not made for that, so a file beside an
    SQLite database locks it. Artefacts go to `mlruns/` beside the database, or where a server keeps them.
    """
    with _locked(uri):
        client = MlflowClient(tracking_uri=_absolute(uri))
        try:
            experiment_id = client.create_experiment(name, artifact_location=_artefacts(uri, name), tags=view_tags())
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment_id = _existing(client, uri, name)
    experiment = Experiment(uri, experiment_id)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(experiment), indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, output)
    return experiment


def load_experiment(path: Path) -> Experiment:
    """Read what `create_experiment` wrote; raise InputError where the file or the experiment is missing."""
    try:
        experiment = Experiment(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: expected the uri and id of an MLflow experiment: {error}") from error
    if not _exists(experiment):
        raise InputError(
            f"{path}: expected an active experiment {experiment.id} in {experiment.uri}, found none; "
            "delete the file to start a new one"
        )
    return experiment


def _exists(experiment: Experiment) -> bool:
    database = _database(experiment.uri)
    if database is not None and not database.exists():
        return False  # and do not ask MLflow, which would create it
    try:
        return bool(experiment.client.get_experiment(experiment.id).lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def _existing(client: MlflowClient, uri: str, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None  # MLflow has just said that it exists
    if experiment.lifecycle_stage != "active":
        raise InputError(
            f"{uri}: expected an active experiment {name}, got a deleted one; "
            f"restore it with: mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    return str(experiment.experiment_id)


def _database(uri: str) -> Path | None:
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def _absolute(uri: str) -> str:
    database = _database(uri)
    return uri if database is None else f"{_SQLITE}{database.absolute()}"


def _artefacts(uri: str, name: str) -> str | None:
    # By name, not by id: numbered folders in mlruns/ can make `mlflow ui` take it for a store of MLflow's older format.
    database = _database(uri)
    return None if database is None else (database.absolute().parent / "mlruns" / name).as_uri()


@contextmanager
def _locked(uri: str) -> Iterator[None]:
    database = _database(uri)
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):
        yield
