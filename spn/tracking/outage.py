"""Which errors mean that the MLflow store does not answer, and the messages that say so."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import InvalidUrlException, MlflowException
from requests.exceptions import RequestException
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from tqdm import tqdm

from spn.config import InputError
from spn.files import WriteError

# MLflow logs a traceback of database errors that it also raises; those are reported in one line here.
logging.getLogger("mlflow.store.db.utils").addFilter(lambda record: record.exc_info is None)

_REMEDY = (
    "; MLflow was interrupted while it changed the schema of this database: put back a copy from before, or move the "
    "database and mlflow/experiment.json away to start a new one, without its runs"
)


class TrackingError(WriteError):
    """The MLflow store does not answer or refuses a write; what it already holds is untouched.

    As with any WriteError the exit status is 1: the command was right, and continues when the store is back.
    """


@contextmanager
def reaching(uri: str, place: str = "") -> Iterator[None]:
    """Raise TrackingError if the store at `uri` does not answer; other errors pass.

    The message begins with `place`, the file that names the store.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        if not _is_away(error):
            raise
        raise TrackingError(
            f"{place}expected the MLflow store {uri} to answer, got: {reason(error)}; "
            "the same command continues when the store is back"
        ) from error


@contextmanager
def opening(uri: str, place: str = "") -> Iterator[None]:
    """Raise TrackingError as `reaching` does, and InputError if there is no usable store at `uri`."""
    try:
        with reaching(uri, place):
            yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:  # ImportError: of a database's driver
        remedy = _REMEDY if _is_of_schema(error) else ""
        raise InputError(f"{place}expected an MLflow store at {uri}, got: {_first_line(error)}{remedy}") from error


def reason(error: BaseException) -> str:
    """Return the first line of an error's root cause, such as `Connection refused`, without MLflow's page of text."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return _first_line(error)


def say(message: str) -> None:
    """Print a line on stderr, above any progress bar."""
    tqdm.write(f"spn: {message}", file=sys.stderr)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _is_away(error: MlflowException | SQLAlchemyError) -> bool:
    """Tell whether the request may succeed later: no connection, a 5xx response, a locked or full database."""
    if isinstance(error, InvalidUrlException):
        return False
    if _is_of_schema(error):
        return False
    cause = error.__cause__ or error.__context__
    return any(isinstance(each, RequestException | OperationalError) for each in (error, cause))


def _is_of_schema(error: BaseException) -> bool:
    """Tell whether a database's schema is not that of its version, which waiting does not mend."""
    cause = error.__cause__ or error.__context__
    text = next((str(each) for each in (error, cause) if isinstance(each, OperationalError)), "")
    return any(
        words in text for words in ("duplicate column name", "already exists", "no such table", "no such column")
    )
