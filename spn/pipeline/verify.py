"""A check of all results that trusts neither Snakemake's nor DVC's records.

Both decide by their own records what to run again, and both can be told to look away (`--touch`, `dvc checkout`,
`dvc commit`). What a result says of itself cannot: it is compared last, always, and before dvc.lock is written.
"""

from collections.abc import Iterator
from pathlib import Path

from spn.config import InputError, Params
from spn.data.seal import open_sealed
from spn.notes import REMEDY, check_tensors, opened
from spn.paths import RESULTS, SOURCES
from spn.pipeline.reading import metrics_of_chains
from spn.provenance import audit, is_clone
from spn.report.tables import text_table

AGAIN = "run the workflow again"


def verify(params: Params, sources: Path = SOURCES) -> Iterator[str]:
    """Compare every result with params.yaml, the code and the sources, and yield the table that compares the chains.

    Bytes are compared with their digests. Before the table come lines on what could not be compared. Raises InputError
    naming the first result that is missing, damaged or of another recipe.
    """
    yield from verify_results(params, sources)
    yield text_table(params, metrics_of_chains(params, RESULTS))


def verify_results(params: Params, sources: Path = SOURCES) -> Iterator[str]:
    """Compare every result with what it must be made from, and its bytes with their digests; note what could not be.

    Raises InputError naming the first result that is missing, damaged or of another recipe.
    """
    found = audit(params, sources)
    for problem in found.problems:
        if is_clone(found):
            break
        raise InputError(problem.reason if problem.reason.endswith(REMEDY) else f"{problem.reason}; {AGAIN}")
    for path in found.sound:
        _check_bytes(path)
    if found.unread:
        yield f"not compared with {sources}, where the source is no more: {', '.join(map(str, found.unread))}"
    if is_clone(found):
        yield "not recorded in MLflow here, where nothing was made: spn record CHAIN does it"


def _check_bytes(path: Path) -> None:
    """Raise InputError unless the bytes of a result are those that it has the digests of."""
    if path.suffix == ".safetensors":
        with opened(path) as file:
            check_tensors(path, file)
    elif path.suffix == ".h5":
        with open_sealed(path, "HDF5 file of the pipeline") as (_, seal):
            seal.check_all()
