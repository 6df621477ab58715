"""What `verify` believes, and what `sample` takes from the stages before.

Snakemake and DVC decide by their own records what to run again, and both can be told to look away (`--touch`,
`dvc checkout`, `dvc commit`). What a result says of itself cannot: it is compared last, always, and before dvc.lock is
written.
"""

from collections.abc import Iterator
from pathlib import Path

from spn.config import InputError, Params
from spn.notes import RECIPE, REMEDY, check_tensors, opened, read_notes
from spn.provenance import SamplingOptions, audit, check_recipe, is_clone, layout_of, sampling_recipe
from spn.provenance.results import SOURCES

AGAIN = "run the workflow again"


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
        from spn.data.seal import open_sealed

        with open_sealed(path, "HDF5 file of the pipeline") as (_, seal):
            seal.check(seal.extents)


def given_digests(
    params: Params, chain: str, stage: str, digest: str, given: Path | None, options: SamplingOptions
) -> dict[str, str]:
    """Return the data digests of `stage`, which is `digest`, and of those before it, as told by their samples.

    Raises InputError unless `given` has just the samples that the stage before made for this chain, under these
    parameters and options, and trained on the same data as far as `digest` tells: in another layout it is another one.
    """
    stages = params.chains[chain].stages
    before = stages[: stages.index(stage)][-1:]
    if not before:
        if given is not None:
            raise InputError(f"--given: expected nothing for {stage}, the first stage of chain {chain}, got {given}")
        return {stage: digest}
    if given is None:
        raise InputError(f"--given: expected the samples of {before[0]}, after which {stage} comes in chain {chain}")
    recipe = read_notes(given).get(RECIPE) or {}
    for key, expected in (("chain", chain), ("stage", before[0])):
        if recipe.get(key) != expected:
            raise InputError(f"{given}: expected samples of {key} {expected}, got {recipe.get(key)}")
    told: dict[str, str] = recipe.get("data_digests", {})
    # A stage of which nothing is told, or that has the layout of this one: its data must be these.
    same = (name for name in stages if name not in told or layout_of(params, name) == layout_of(params, stage))
    digests = told | dict.fromkeys(same, digest)
    check_recipe(given, sampling_recipe(params, chain, before[0], digests, options), recipe)
    return digests
