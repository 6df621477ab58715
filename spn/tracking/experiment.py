"""The MLflow store and the experiment that hold all runs of a pipeline.

A store is an SQLite database or an MLflow server (`http://host:5000`). Jobs on a cluster need no setting: they read the
store's URI from the *handle*, a JSON file that the first job writes.

SQLite needs a file system with locks that work across nodes: local disks and NFS 4 have them, Lustre when mounted with
`flock`, NFS 3 when its lock daemon runs. Without such locks the database can be damaged, so use a server. One process
writes at a time, and the others wait up to 20 seconds. A training writes for some milliseconds every ten seconds, so
dozens can share a database; for hundreds, or on a slow file system, use a server. A relative path begins at the
experiment's folder, where all jobs run; in a temporary workspace of DVC, at the repository (`spn.paths.HOME`).

Put names and passwords into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, not into the URI, which appears in
the handle and in messages.
"""

import os
import secrets
import shlex
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from filelock import FileLock
from mlflow import entities
from mlflow.exceptions import MlflowException
from mlflow.tracking.client import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path

from spn.config import InputError
from spn.files import read_json, write_json, writing
from spn.paths import database_path
from spn.tracking.outage import opening, say
from spn.tracking.schema import prepare
from spn.tracking.views import CHAINS, KIND, experiment_tags, has_kind

DEFAULT_URI = "sqlite:///mlflow.db"
"""MLflow's own default, so that plain `mlflow ui` in the working directory shows it."""

TOKEN = "spn.token"
"""The tag of an experiment that holds its token."""

_SERVED = "http://127.0.0.1:5000"
"""Where `mlflow ui` serves its pages unless it is told otherwise."""

_WORKFLOW = "workflowType=machine_learning"
"""Makes a page show its tabs for training; a new visitor would see those for language models without it (`views`)."""


@dataclass(frozen=True)
class Experiment:
    """Where runs are recorded: the URI of a store, and the id of an experiment in it.

    The path in a `sqlite:///` URI may be relative.
    """

    uri: str
    id: str
    token: str = ""
    """A random tag of the experiment, by which a new store at the same place is told apart: ids begin at 1 again."""

    @cached_property
    def client(self) -> MlflowClient:
        """A client of the store."""
        return MlflowClient(tracking_uri=_absolute(self.uri))

    @property
    def ui_command(self) -> str | None:
        """The command that serves the pages of the store, in the working directory; None if it is a server itself."""
        if self._is_server:
            return None
        return "mlflow ui" if self.uri == DEFAULT_URI else f"mlflow ui --backend-store-uri {shlex.quote(self.uri)}"

    @property
    def page(self) -> str:
        """The address of the experiment's page: its runs, in the saved view of chains."""
        return f"{self._root}/#/experiments/{self.id}/runs?viewStateShareKey={CHAINS}&{_WORKFLOW}"

    def run_page(self, run_id: str) -> str:
        """Return the address of a run's page."""
        return f"{self._root}/{self.link(run_id)}"

    def link(self, run_id: str) -> str:
        """Return the address of a run's page relative to that of any other page, because the UI is a single one."""
        return f"#/experiments/{self.id}/runs/{run_id}?{_WORKFLOW}"

    @property
    def _is_server(self) -> bool:
        return self.uri.startswith(("http://", "https://"))

    @property
    def _root(self) -> str:
        return self.uri.rstrip("/") if self._is_server else _SERVED

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes of this package out of an SQLite store; do nothing for a server."""
        return _locked(self.uri)


def default_uri() -> str:
    """Return the store that the environment names in MLFLOW_TRACKING_URI, else MLflow's own default."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def open_experiment(handle: Path, name: str) -> Experiment:
    """Return the experiment of a handle; if there is no handle, make the store, the experiment and the handle.

    Safe for any number of processes at once, and if any is killed: an SQLite store exists whole or not at all. An
    existing store or experiment is used; one that has no kind yet, because MLflow or an earlier version made it, gets
    the kind and the views of a new one, and a handle without a token gets that of its experiment. Artefacts go to
    `mlruns/` beside the database, or where a server keeps them.

    Raises what `load_experiment` raises, and InputError if MLflow cannot use the store in MLFLOW_TRACKING_URI, if the
    experiment was deleted, if the store was moved or copied since it was made, or if it is another than the handle's.
    """
    if not handle.exists():
        _make(handle, default_uri(), name)
    experiment = load_experiment(handle)
    with opening(experiment.uri, f"{handle}: "), experiment.locked():
        found = experiment.client.get_experiment(experiment.id)
        _check_place(handle, experiment, found)
        _give_kind(experiment, found.tags)
        return _with_token(handle, experiment, found.tags)


def load_experiment(handle: Path) -> Experiment:
    """Read a handle, and look for its experiment in its store.

    The handle takes precedence over MLFLOW_TRACKING_URI; a line on stderr says if they differ. Raises InputError if
    the file or the experiment is missing, and TrackingError if the store does not answer.
    """
    try:
        experiment = Experiment(**read_json(handle))
    except TypeError as error:
        raise InputError(f"{handle}: expected the uri and id of an MLflow experiment: {error}") from error
    _tell_of_another_store(handle, experiment.uri)
    with opening(experiment.uri, f"{handle}: "):
        exists = _exists(experiment)
    if not exists:
        raise InputError(
            f"{handle}: expected an active experiment {experiment.id} in {experiment.uri}, found none; "
            "delete the file to start a new one"
        )
    return experiment


def _make(handle: Path, uri: str, name: str) -> None:
    with opening(uri), _locked(uri):
        if handle.exists():
            return  # another process made it before this one had the lock
        if (database := database_path(uri)) is not None:
            prepare(database)
        client = MlflowClient(tracking_uri=_absolute(uri))
        place = _artefacts(uri, name)
        tags = experiment_tags() | {TOKEN: secrets.token_hex(8)}
        try:
            experiment_id = client.create_experiment(
                name, artifact_location=None if place is None else place.as_uri(), tags=tags
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment_id = _existing(client, uri, name)
        write_json(handle, asdict(Experiment(uri, experiment_id)))


def _give_kind(experiment: Experiment, tags: Mapping[str, str]) -> None:
    """Make an experiment open on its runs, with the saved views; leave alone one whose kind somebody chose."""
    if not has_kind(tags):
        # The kind last, so that an interrupted change is made again.
        for key, value in sorted(experiment_tags().items(), key=lambda tag: tag[0] == KIND):
            experiment.client.set_experiment_tag(experiment.id, key, value)


def _with_token(handle: Path, experiment: Experiment, tags: Mapping[str, str]) -> Experiment:
    """Return the experiment with its token, and complete the handle; refuse one that has the token of another store."""
    token = tags.get(TOKEN, "")
    if experiment.token:
        if token != experiment.token:
            raise InputError(
                f"{handle}: expected experiment {experiment.id} of token {experiment.token} in {experiment.uri}, "
                f"got {token or 'none'}, so this is another store; delete the file to record in it"
            )
        return experiment
    if not token:  # made by MLflow or an earlier version
        token = secrets.token_hex(8)
        experiment.client.set_experiment_tag(experiment.id, TOKEN, token)
    complete = replace(experiment, token=token)
    write_json(handle, asdict(complete))
    return complete


def _tell_of_another_store(path: Path, uri: str) -> None:
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if named and _absolute(named) != _absolute(uri):
        say(
            f"{path}: runs are recorded in {uri}, not in {named} of MLFLOW_TRACKING_URI, which is read only when the "
            "file is made; delete the file to make it again"
        )


def _exists(experiment: Experiment) -> bool:
    database = database_path(experiment.uri)
    if database is not None and not database.exists():
        return False  # without asking MLflow, which would create it
    try:
        with experiment.locked():  # a newer MLflow may migrate the schema
            return bool(experiment.client.get_experiment(experiment.id).lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def _check_place(handle: Path, experiment: Experiment, found: entities.Experiment) -> None:
    """Refuse a database that was moved or copied: MLflow would go on writing artefacts to where they were.

    It keeps their absolute path with the experiment and with every run. Artefacts in a place that was not chosen by
    `_artefacts`, because somebody else made the experiment, may stay there.
    """
    database, expected = database_path(experiment.uri), _artefacts(experiment.uri, found.name)
    if database is None or expected is None or not found.artifact_location.startswith("file:"):
        return
    place = Path(local_file_uri_to_path(found.artifact_location))
    if place.parts[-2:] == expected.parts[-2:] and place.resolve() != expected.resolve():
        folder = database.parent
        raise InputError(
            f"{handle}: expected the artefacts of experiment {experiment.id} in {expected.parent}, got {place.parent}, "
            f"where they were before the store was moved or copied; move it back, or delete {database}, "
            f"{folder / 'mlruns'} and {handle} to record everything anew from the results"
        )


def _existing(client: MlflowClient, uri: str, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None  # MLflow has just said that it exists
    if experiment.lifecycle_stage != "active":
        raise InputError(
            f"{uri}: expected an active experiment {name}, got a deleted one; "
            f"restore it with: mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    return str(experiment.experiment_id)


def _absolute(uri: str) -> str:
    database = database_path(uri)
    return uri if database is None else f"sqlite:///{database.absolute()}"


def _artefacts(uri: str, name: str) -> Path | None:
    # By name, not by id: `mlflow ui` can mistake numbered folders in mlruns/ for a store of MLflow's older format.
    database = database_path(uri)
    return None if database is None else database.absolute().parent / "mlruns" / name


@contextmanager
def _locked(uri: str) -> Iterator[None]:
    database = database_path(uri)
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{database}.lock")
    with writing(Path(lock.lock_file)):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
