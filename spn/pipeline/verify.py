"""Checks all results without trusting the records of Snakemake or DVC.

Both decide by their own records what to run again, and options or commands can mislead them (`--touch`,
`dvc checkout`, `dvc commit`). The notes inside a result cannot be misled, so they are always compared at the end,
before DVC writes dvc.lock.
"""

from collections.abc import Iterator
from pathlib import Path

from spn.config import InputError, Params
from spn.data.seal import open_sealed
from spn.files import read_json
from spn.notes import REMEDY, check_tensors, opened
from spn.paths import PARAMS, RESULTS, SOURCES, record_path
from spn.pipeline.last_commit import change_lines
from spn.pipeline.links import link_lines
from spn.pipeline.reading import metrics_of_chains
from spn.provenance import audit, is_clone
from spn.report.tables import text_table

AGAIN = "run the workflow again"


def verify(params: Params, sources: Path = SOURCES, params_file: Path = PARAMS) -> Iterator[str]:
    """Compare every result with params.yaml, the code and the sources, and yield the table of the chains.

    Compares all bytes with their digests too. Lines on anything that could not be compared precede the table; what
    changed since the last commit, and the addresses of the recorded chains in MLflow, follow it. Raises InputError
    naming the first result that is missing, damaged or of another recipe.
    """
    yield from verify_results(params, sources)
    yield text_table(params, metrics_of_chains(params, RESULTS))
    yield from change_lines(params_file, RESULTS)
    records = {chain: record_path(chain) for chain in params.chains}
    yield from link_lines({chain: read_json(path) for chain, path in records.items() if path.exists()})


def verify_results(params: Params, sources: Path = SOURCES) -> Iterator[str]:
    """Compare every result with its recipe, and its bytes with their digests; yield notes on what was not compared.

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
        yield f"not compared with the source, which is no longer in {sources}: {', '.join(map(str, found.unread))}"
    if is_clone(found):
        yield "not recorded in MLflow, because nothing ran in this folder: spn record CHAIN records a chain"


def _check_bytes(path: Path) -> None:
    """Raise InputError unless the bytes of a result match the digests in it."""
    if path.suffix == ".safetensors":
        with opened(path) as file:
            check_tensors(path, file)
    elif path.suffix == ".h5":
        with open_sealed(path, "HDF5 file of the pipeline") as (_, seal):
            seal.check_all()
