"""Requests: files by whose times Snakemake makes outdated results again, and leaves sound ones as they are."""

import errno
import os
import time
from pathlib import Path

import pytest
from fabricated import MADE, SPLIT, WHOLE, after, files_of, params

from spn.config import Params
from spn.files import WriteError
from spn.paths import request_path
from spn.provenance import ask, audit

__all__ = ["params"]

HOUR = 3600 * 10**9
LONG_AGO = 10**18

WEIGHTS, FIGURES = "results/stages/low/checkpoint.safetensors", "results/stages/low/metrics.json"
HISTORY = "results/stages/low/history.csv"
SAMPLES = "results/chains/depth/low/samples.h5"


def time_of(file: str | Path) -> int:
    return Path(file).stat().st_mtime_ns


def set_time(file: str | Path, when: int) -> None:
    os.utime(file, ns=(when, when))


def request(path: str) -> Path:
    return Path(f".cache/requests/{path}.txt")


@pytest.fixture
def times(params: Params) -> dict[str, list[int]]:
    """The times of all results' files, each an hour after those that it is made from."""
    for place, path in enumerate(MADE):
        for file in files_of(path):
            set_time(file, LONG_AGO + place * HOUR)
    return times_now()


def times_now() -> dict[str, list[int]]:
    return {path: [time_of(file) for file in files_of(path)] for path in MADE}


def test_every_result_has_a_request(params: Params) -> None:
    assert request_path(Path(WEIGHTS)) == Path(".cache/requests/results/stages/low/checkpoint.safetensors.txt")
    ask(params, audit(params))
    assert {file for file in Path(".cache/requests").rglob("*") if file.is_file()} == {*map(request, MADE)}


def test_requests_of_sound_results_are_older_than_anything(params: Params, times: dict[str, list[int]]) -> None:
    request(WEIGHTS).parent.mkdir(parents=True)
    request(WEIGHTS).write_text("outdated once\n")
    ask(params, audit(params))
    assert {request(path).read_text() for path in MADE if path != WEIGHTS} == {"nothing was outdated yet\n"}
    assert request(WEIGHTS).read_text() == "outdated once\n"
    assert {time_of(request(path)) for path in MADE} == {0}
    assert times_now() == times


@pytest.mark.parametrize("in_future", [False, True])
def test_requests_of_outdated_results_are_newer_than_all_their_files(params: Params, in_future: bool) -> None:
    Path(HISTORY).write_text("another")
    newest = time.time_ns() + (HOUR if in_future else -HOUR)
    set_time(WEIGHTS, newest - HOUR)
    set_time(HISTORY, newest)
    found = audit(params)
    before = time.time_ns()
    ask(params, found)
    if in_future:
        assert time_of(request(WEIGHTS)) == newest + 1
    else:
        assert before <= time_of(request(WEIGHTS)) <= time.time_ns()
    for path in MADE.keys() - {WEIGHTS}:  # sound, or nobody knows yet
        assert time_of(request(path)) == 0


def test_a_request_says_why_and_never_the_same(params: Params) -> None:
    Path(HISTORY).unlink()
    found = audit(params)
    (problem,) = found.problems
    texts = set()
    for _ in range(3):
        ask(params, found)
        reason, moment, end = request(WEIGHTS).read_text().split("\n")
        assert (reason, moment.isdecimal(), end) == (problem.reason, True, "")
        texts.add(moment)
    assert len(texts) == 3


def test_a_sound_result_is_asked_for_no_longer(params: Params) -> None:
    content = Path(HISTORY).read_bytes()
    Path(HISTORY).write_text("another")
    ask(params, audit(params))
    asked = request(WEIGHTS).read_text()
    Path(HISTORY).write_bytes(content)
    ask(params, audit(params))
    assert request(WEIGHTS).read_text() == asked
    assert time_of(request(WEIGHTS)) == 0


def test_requests_of_what_is_missing_and_of_what_comes_after_are_left_alone(params: Params) -> None:
    ask(params, audit(params))
    for path in MADE:
        set_time(request(path), LONG_AGO)
    Path(WEIGHTS).unlink()
    ask(params, audit(params))
    assert {path for path in MADE if time_of(request(path)) == LONG_AGO} == after(WEIGHTS)
    assert {time_of(request(path)) for path in MADE.keys() - after(WEIGHTS)} == {0}
    assert {request(path).read_text() for path in MADE} == {"nothing was outdated yet\n"}


def test_results_that_are_as_old_as_what_they_are_made_from_stay(params: Params) -> None:
    for path in MADE:
        for file in files_of(path):
            set_time(file, 0)
    before = times_now()
    ask(params, audit(params))
    assert times_now() == before


@pytest.mark.parametrize("file", [FIGURES, "results/stages/low/nats.npy"])
@pytest.mark.parametrize("need", [SPLIT, WEIGHTS, HISTORY])
def test_a_sound_result_becomes_newer_than_all_that_it_is_made_from(
    params: Params, times: dict[str, list[int]], need: str, file: str
) -> None:
    """By a nanosecond already, in any of its files; and with it all that is made from it, and nothing else."""
    place = [*MADE].index(FIGURES)
    for made in files_of(FIGURES):
        set_time(made, LONG_AGO + place * HOUR)
    changed = {SPLIT: {SPLIT}, WEIGHTS: {WEIGHTS}, HISTORY: {WEIGHTS}}[need]
    newest = max(time_of(each) for each in (SPLIT, WEIGHTS, HISTORY) if each != need)
    set_time(need, newest + 1)
    set_time(file, newest)
    before, started = times_now(), time.time_ns()
    ask(params, audit(params))
    now = times_now()
    touched = {path for path in MADE if now[path] != before[path]}
    late = after(FIGURES) if need != SPLIT else after(SPLIT) - changed
    assert touched == late
    assert all(min(now[path]) >= started - 10**8 for path in touched)  # the clock of files is a coarse one
    for path in MADE:
        for each in MADE[path].needs:
            assert min(now[path]) >= max(now[each])


def test_results_that_are_not_sound_keep_their_times(params: Params, times: dict[str, list[int]]) -> None:
    Path(HISTORY).write_text("another")
    set_time(HISTORY, times[WEIGHTS][0])
    set_time(SPLIT, LONG_AGO + 90 * HOUR)
    ask(params, audit(params))
    now = times_now()
    assert {path for path in MADE if now[path] != times[path]} - {SPLIT} == (
        after("results/stages/high/checkpoint.safetensors") - after(WEIGHTS)
    )
    assert now[WHOLE] == times[WHOLE]


def refuse(*arguments: object, **options: object) -> None:
    """Take no writing, as in a read-only folder or on a file of another owner."""
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_where_everything_is_sound_and_in_order_nothing_is_written(
    params: Params, times: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder may be read-only, or the files another owner's, who alone may set their times."""
    ask(params, audit(params))
    monkeypatch.setattr("os.utime", refuse)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    ask(params, audit(params))
    assert times_now() == times


@pytest.mark.parametrize(
    ("refused", "is_outdated"), [(str(request(WEIGHTS)), False), (str(request(WEIGHTS)), True), (FIGURES, False)]
)
def test_a_file_whose_time_cannot_be_set_is_named(
    params: Params, times: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch, refused: str, is_outdated: bool
) -> None:
    ask(params, audit(params))
    if refused == FIGURES:
        set_time(FIGURES, 0)
    elif is_outdated:
        Path(HISTORY).write_text("another")
    else:
        set_time(refused, LONG_AGO)
    monkeypatch.setattr("os.utime", refuse)
    with pytest.raises(WriteError, match=rf"^{refused}: could not be written: Read-only file system$"):
        ask(params, audit(params))
