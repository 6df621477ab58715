"""Every result of an experiment: where it lies, what it must be made from, and whether it was.

`audit` finds what is outdated, and `ask` makes Snakemake make it again; `spn verify` calls `audit` too. A result is
sound if its notes agree with params.yaml, the code on disk, the sources, and the results that it is made from. File
times and the records of Snakemake and DVC do not count.
"""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from spn.config import InputError, Params
from spn.files import read_json, write_text, writing
from spn.notes import FILES, RECIPE, REMEDY, TENSORS_SEAL, TRAINED, Notes, check_files, read_notes
from spn.paths import (
    COMPLETED,
    DATABASE,
    HANDLE,
    HISTORY,
    METRICS,
    NATS,
    PICTURE,
    RECONSTRUCTIONS,
    RECORDS,
    RESULTS,
    RUNS,
    SOURCES,
    checkpoint_path,
    codes_path,
    completion_path,
    database_path,
    metrics_path,
    model_path,
    rate_path,
    record_path,
    report_files,
    report_path,
    request_path,
    samples_path,
    slices_path,
    summary_path,
)
from spn.provenance.recipes import (
    Recipe,
    codec_recipe,
    codes_recipe,
    completion_recipe,
    differing_keys,
    evaluation_recipe,
    export_recipe,
    first_stage_recipe,
    record_recipe,
    report_recipe,
    sampling_recipe,
    slices_recipe,
    stage_recipe,
    summary_recipe,
)
from spn.provenance.sources import source_state


@dataclass(frozen=True)
class Result:
    """The outputs of one job: the file at `path`, whose notes hold the digests of `others`, relative to its folder."""

    path: Path
    recipe: Callable[[str], Recipe]
    """What it must be made from, given the digest of the data."""
    needs: tuple[Path, ...] = ()
    """The results that it is made from, by their paths."""
    others: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    """The stages and first stages whose weights it was made with."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All of its files."""
        return self.path, *(Path(os.path.normpath(self.path.parent / name)) for name in self.others)


@dataclass(frozen=True)
class Problem:
    """A result that is missing or is not the one expected, and why."""

    result: Result
    reason: str
    is_missing: bool = False


@dataclass
class Audit:
    """The findings: problems, in the order in which results are made, and the notes of sound results.

    A result made from a missing or outdated one is in neither, because its recipe cannot be known yet.
    """

    problems: list[Problem] = field(default_factory=list)
    sound: dict[Path, Notes] = field(default_factory=dict)
    unread: list[Path] = field(default_factory=list)
    """Files of slices whose source no longer exists, so that they were not compared with it."""


def results_of(params: Params) -> list[Result]:
    """List every result of an experiment, each after the results that it is made from."""
    results = [
        Result(slices_path(params.data.name, size), lambda _, size=size: slices_recipe(params, size))
        for size in params.cuts
    ]
    for first_stage in params.first_stage_plans:
        results += _of_first_stage(params, first_stage)
    for stage in params.stage_plans:
        results += _of_stage(params, stage)
    for chain in params.chains:
        results += _of_chain(params, chain)
    samples = (samples_path(name, stage) for name, chain in params.chains.items() for stage in chain.stages)
    codes = map(codes_path, params.first_stage_plans)
    needs = (
        *map(summary_path, params.chains),
        *map(metrics_path, params.stage_plans),
        *map(checkpoint_path, params.trained_plans),
        *samples,
        *codes,
        *(path for chain in params.chains for path in _tried(params, chain)),
    )
    files = report_files(tuple(params.stage_plans))
    report = Result(
        report_path(), lambda digest: report_recipe(params, digest), needs, files, tuple(params.trained_plans)
    )
    return [*results, report]


def _of_first_stage(params: Params, name: str) -> list[Result]:
    slices, checkpoint = slices_path(params.data.name, 1), checkpoint_path(name)
    return [
        Result(checkpoint, lambda digest: first_stage_recipe(params, name, digest), (slices,), (HISTORY,)),
        Result(
            codes_path(name),
            lambda digest: codes_recipe(params, name, digest),
            (slices, checkpoint),
            (METRICS, RECONSTRUCTIONS),
            (name,),
        ),
    ]


def read_path(params: Params, name: str, results: Path = RESULTS) -> Path:
    """Return the path of the file that a network reads: slices, or codes, which lie in the folder of results."""
    codes = params.stages[name].codes if name in params.stages else None
    plan = params.trained_plans[name]
    return slices_path(params.data.name, plan.scale_factor) if codes is None else codes_path(codes, results)


def _of_stage(params: Params, stage: str) -> list[Result]:
    slices, checkpoint = read_path(params, stage), checkpoint_path(stage)
    codes = params.stages[stage].codes
    return [
        Result(checkpoint, lambda digest: stage_recipe(params, stage, digest), (slices,), (HISTORY,)),
        Result(
            metrics_path(stage),
            lambda digest: evaluation_recipe(params, stage, digest),
            (slices, checkpoint),
            (NATS,),
            (stage, *([] if codes is None else [codes])),
        ),
    ]


def _of_chain(params: Params, chain: str) -> list[Result]:
    stages = params.chains[chain].stages
    results: list[Result] = []
    first_stage = () if (codes := params.codes(chain)) is None else (codes,)
    networks = (*stages, *first_stage)
    for number, stage in enumerate(stages, start=1):
        before = [result.path for result in results[-1:]]
        results.append(
            Result(
                samples_path(chain, stage),
                lambda digest, stage=stage: sampling_recipe(params, chain, stage, digest),
                (checkpoint_path(stage), *before),
                (PICTURE,),
                (*stages[:number], *first_stage),
            )
        )
    samples = tuple(result.path for result in results)
    model = model_path(chain)
    tried = {
        completion_path(chain): Result(
            completion_path(chain),
            lambda digest: completion_recipe(params, chain, digest),
            (model,),
            (COMPLETED,),
            networks,
        ),
        rate_path(chain): Result(
            rate_path(chain), lambda digest: codec_recipe(params, chain, digest), (model,), networks=networks
        ),
    }
    return [
        *results,
        Result(
            summary_path(chain),
            lambda digest: summary_recipe(params, chain, digest),
            *_figures(params, chain),
            networks,
        ),
        Result(
            model,
            lambda digest: export_recipe(params, chain, digest),
            (summary_path(chain), *map(checkpoint_path, networks)),
            networks=networks,
        ),
        *(tried[path] for path in _tried(params, chain)),
        Result(
            record_path(chain),
            lambda digest: record_recipe(params, chain, digest, recorded_in()),
            (summary_path(chain), model, *samples, *_tried(params, chain)),
            networks=networks,
        ),
    ]


def _tried(params: Params, chain: str) -> list[Path]:
    """List what is made with a chain's model file, where params.yaml asks for it."""
    return [
        *([completion_path(chain)] if params.is_completed(chain) else []),
        *([rate_path(chain)] if params.is_coded(chain) else []),
    ]


def _figures(params: Params, chain: str) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return what a chain's figures are made from, and the files written with them."""
    stages = params.chains[chain].stages
    figures = tuple(map(metrics_path, stages))
    if not params.chains[chain].views:
        return figures, ()
    read = dict.fromkeys(read_path(params, stage) for stage in stages)
    return (*figures, *read, *map(checkpoint_path, stages)), (NATS,)


def audit(params: Params, sources: Path = SOURCES) -> Audit:
    """Compare every result with what it must be made from; paths are relative to the experiment's folder."""
    found = Audit()
    results = results_of(params)
    slices, others = results[: len(params.cuts)], results[len(params.cuts) :]
    state = source_state(params.data, sources)
    for result in slices:
        _examine(found, result, "", lambda notes, path=result.path: _check_source(params, path, notes, state))
    digests = {notes["digest"] for notes in found.sound.values()}
    if len(digests) > 1:
        # Nobody knows which is right.
        paths = ", ".join(map(str, found.sound))
        for result in (result for result in slices if result.path in found.sound):
            found.problems.append(Problem(result, f"{result.path}: expected the same images in {paths}, got others"))
        found.sound.clear()
    digest = next(iter(digests), "")
    found.unread = [path for path, notes in found.sound.items() if state is None and notes["source_state"] is not None]
    for result in others:
        _examine(found, result, digest)
    return found


def _examine(found: Audit, result: Result, digest: str, check: Callable[[Notes], None] = lambda notes: None) -> None:
    """Note whether a result is sound, also by `check`; do nothing if it is made from one that is not."""
    if any(need not in found.sound for need in result.needs):
        return
    if not result.path.exists():
        found.problems.append(Problem(result, f"{result.path}: expected a result, found no file", is_missing=True))
        return
    try:
        notes = _sound_notes(result, digest)
        check(notes)
        _check_weights(result, notes, found.sound)
    except InputError as error:
        found.problems.append(Problem(result, str(error)))
    else:
        found.sound[result.path] = notes


def _sound_notes(result: Result, digest: str) -> Notes:
    """Read the notes of a result; raise InputError unless it is made from what it must be."""
    notes = read_notes(result.path)
    check_recipe(result.path, result.recipe(digest), notes.get(RECIPE))
    if sorted(notes.get(FILES, {})) != sorted(result.others):
        raise InputError(
            f"{result.path}: expected the digests of {', '.join(result.others)}, got those of "
            f"{', '.join(notes.get(FILES, {})) or 'no file'}; {REMEDY}"
        )
    check_files(result.path, notes)
    return notes


def _check_weights(result: Result, notes: Notes, sound: dict[Path, Notes]) -> None:
    """Raise InputError unless a result was made with the weights that are in the checkpoints."""
    actual: dict[str, str] = notes.get(TRAINED, {})
    expected = {name: sound[checkpoint_path(name)][TENSORS_SEAL] for name in result.networks}
    if other := sorted(name for name, digest in expected.items() if actual.get(name) != digest):
        raise InputError(f"{result.path}: made with other weights of {', '.join(other)} than those in {RESULTS}")


def check_recipe(path: Path, expected: Recipe, actual: Recipe | None) -> None:
    """Raise InputError, naming the first key that differs, unless the recipes are the same."""
    if actual is None:
        raise InputError(f"{path}: expected a recipe inside, found none; {REMEDY}")
    if different := differing_keys(expected, actual):
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise InputError(f"{path}: made from another recipe than params.yaml asks for: {different[0]}{more}")


def _check_source(params: Params, path: Path, notes: Notes, state: str | None) -> None:
    """Raise InputError unless a file of slices is made from the current source, the one that params.yaml states."""
    if state is not None and notes["source_state"] != state:
        raise InputError(f"{path}: the source {params.data.name} has changed since it was made")
    if params.data.source_digest not in (None, notes["source_digest"]):
        raise InputError(
            f"{path}: expected slices of a source of SHA-256 {params.data.source_digest}, as data.source_digest says, "
            f"got {notes['source_digest']}"
        )


def recorded_in() -> dict[str, str] | None:
    """Read this folder's MLflow store and experiment from the handle; None if the handle or database is missing."""
    try:
        experiment: dict[str, str] = read_json(HANDLE)
    except InputError:
        return None
    database = database_path(experiment["uri"])
    return experiment if database is None or database.exists() else None


def is_clone(found: Audit) -> bool:
    """Tell whether `dvc pull` brought the results: all are sound but MLflow's records, and nothing ever ran here.

    MLflow records runs in this folder. Any training leaves `runs/` and a store behind.
    """
    ran = any(place.exists() for place in (RUNS, DATABASE, RECORDS.parent))
    return not ran and all(problem.result.path.parent == RECORDS for problem in found.problems)


def asked_results(params: Params, found: Audit) -> list[Result]:
    """List the results to make: all of them, except MLflow's records in a clone."""
    return [result for result in results_of(params) if not (is_clone(found) and result.path.parent == RECORDS)]


def ask(params: Params, found: Audit) -> None:
    """Make Snakemake remake outdated results and leave sound ones alone, through file times.

    Every job has an extra input, its *request*. If the job's outputs are sound, the request is older than they are. If
    they are outdated, it is newer and states the reason, with a time stamp, because Snakemake ignores a newer file with
    unchanged content. Snakemake's own records do not count, and neither does `snakemake --touch`.

    Nothing is written where all of this is so already, because only its owner may set a file's time. Raises WriteError
    if a file cannot be written.
    """
    outdated = {problem.result.path: problem.reason for problem in found.problems if not problem.is_missing}
    for result in results_of(params):
        request = request_path(result.path)
        if result.path in outdated:
            write_text(request, f"{outdated[result.path]}\n{time.time_ns()}\n")
            newest = max(map(_time, filter(Path.exists, result.files)))
            moment = max(newest + 1, time.time_ns())
            with writing(request):
                os.utime(request, ns=(moment, moment))
        elif result.path in found.sound or not request.exists():
            if not request.exists():
                write_text(request, "nothing was outdated yet\n")
            if _time(request) != 0:
                with writing(request):
                    os.utime(request, ns=(0, 0))
    _put_in_order(params, found.sound)


def _put_in_order(params: Params, sound: Iterable[Path]) -> None:
    """Make sound results newer than the results that they are made from; `dvc pull` and `git clone` do not.

    Snakemake compares these times if it has no records, as in a fresh clone.
    """
    results = {result.path: result for result in results_of(params)}
    for path in sound:
        newest = max((_time(file) for need in results[path].needs for file in results[need].files), default=0)
        files = results[path].files
        if min(map(_time, files)) < newest:
            for file in files:
                with writing(file):
                    os.utime(file)


def _time(file: Path) -> int:
    return file.stat().st_mtime_ns
