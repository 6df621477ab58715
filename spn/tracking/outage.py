"""Which errors mean that a store does not answer, and what a person is told then."""

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

# MLflow logs the traceback of a database's error that it also raises: what is raised is reported in one line.
logging.getLogger("mlflow.store.db.utils").addFilter(lambda record: record.exc_info is None)

_REMEDY = (
    "; MLflow was interrupted while it changed the schema of this database: put back a copy from before, or move the "
    "database and mlflow/experiment.json away to start a new one, without its runs"
)


class TrackingError(WriteError):
    """The MLflow store does not answer, or takes nothing; what it had taken before is untouched.

    As with any WriteError the command line exits with status 1, because nothing is wrong with what was asked for, and
    the same command goes on when the store is back.
    """


@contextmanager
def reaching(uri: str, place: str = "") -> Iterator[None]:
    """Raise TrackingError where the store at `uri` does not answer; other errors pass.

    `place` begins the message: the file that names the store.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        if not _is_away(error):
            raise
        raise TrackingError(
            f"{place}expected the MLflow store {uri} to answer, got: {reason(error)}; "
            "the same command goes on when the store is back"
        ) from error


@contextmanager
def opening(uri: str, place: str = "") -> Iterator[None]:
    """Raise TrackingError as `reaching` does, and InputError where MLflow can use no store at `uri`."""
    try:
        with reaching(uri, place):
            yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:  # ImportError: of a database's driver
        remedy = _REMEDY if _is_of_schema(error) else ""
        raise InputError(f"{place}expected an MLflow store at {uri}, got: {_first_line(error)}{remedy}") from error


def reason(error: BaseException) -> str:
    """Return the first line of an error's cause, such as `Connection refused`, which MLflow wraps in a page of text."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return _first_line(error)


def say(message: str) -> None:
    """Print a line on stderr, above a progress bar where there is one."""
    tqdm.write(f"spn: {message}", file=sys.stderr)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _is_away(error: MlflowException | SQLAlchemyError) -> bool:
    """Tell whether the same request may succeed later: no connection, an answer of 5xx, a locked or full database."""
    if isinstance(error, InvalidUrlException):
        return False
    if _is_of_schema(error):
        return False
    cause = error.__cause__ or error.__context__
    return any(isinstance(each, RequestException | OperationalError) for each in (error, cause))


def _is_of_schema(error: BaseException) -> bool:
    """Tell whether a database has another schema than its version says: waiting does not help."""
    cause = error.__cause__ or error.__context__
    text = next((str(each) for each in (error, cause) if isinstance(each, OperationalError)), "")
    return any(
        words in text for words in ("duplicate column name", "already exists", "no such table", "no such column")
    )
