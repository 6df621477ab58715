"""What the terminal says of a run: bars and reasons read from logs, the time left, and `spn watch`."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from spn.cli import main
from spn.console.estimate import Estimate, Planned, Running
from spn.console.follow import Follower
from spn.console.logs import Bar, error_in, last_word, mark, read_bar, read_lines
from spn.console.plan import NoPlanError, Plan
from spn.console.progress import Progress, Run, duration
from spn.console.running import Job, read_running, start_job, write_running

# As tqdm writes them.
BARS = (
    "low:   0%|          | 0/900 [00:00<?, ?step/s]",
    "low:  45%|████▌     | 405/900 [00:10<00:12, 40.50step/s, 1.937 bits/dim, 1,297 images/s, validation 2.0]   ",
)
SECONDS = {"low": {"train": 20.0, "evaluate": 2.0, "sample_stage": None}}


def log(folder: Path, text: str) -> list[str]:
    path = folder / "job.log"
    path.write_text(text)
    return read_lines(path)


def test_the_last_state_of_a_bar_is_read(tmp_path: Path) -> None:
    lines = log(tmp_path, "low on cpu: float32\n\n" + "\r".join(BARS))
    assert lines == ["low on cpu: float32", BARS[1].rstrip()]
    assert read_bar(lines) == Bar(45, 10.0, 12.0, 900 / 40.5)


@pytest.mark.parametrize(
    ("bar", "expected"),
    [
        (BARS[0], Bar(0, 0.0, None, None)),
        (
            "big:  50%|█████     | 10/20 [1:00:00<2:00:01, 360.00s/step]",
            Bar(50, 3600.0, 7201.0, 7200.0),
        ),
        ("low on test: 100%|██████████| 1/1 [00:00<00:00, 62.83batch/s]", Bar(100, 0.0, 0.0, 1 / 62.83)),
    ],
)
def test_bars_of_every_length(bar: str, expected: Bar) -> None:
    assert read_bar([bar]) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("spn: error: params.yaml: no\n", "params.yaml: no"),
        (f"{BARS[1]}\nspn: error: first\nspn: error: x.png: second\n", "x.png: second"),
        ("\r".join(BARS) + "\rspn: error: after a bar\n", "after a bar"),
        (
            'Traceback (most recent call last):\n  File "a.py", line 1\nValueError: one\n  of two lines\nmore\n',
            "ValueError: one",
        ),
        (
            'Traceback (most recent call last):\n  File "a"\nKeyError: 1\n\nDuring handling of it\n\n'
            'Traceback (most recent call last):\n  File "b"\nRuntimeError: two\n',
            "RuntimeError: two",
        ),
        (
            '[rank1]: Traceback (most recent call last):\n[rank1]:   File "a"\n[rank1]: OSError: of a process\n'
            'Traceback (most recent call last):\n  File "torchrun"\n'
            "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n",
            "OSError: of a process",
        ),
        # What another Snakemake says that ran within the job.
        ("spn: error: train low: no room (logs/train/low.log)\n", "train low: no room (logs/train/low.log)"),
        ("spn: stage low: stopped by SIGTERM\n", None),
    ],
)
def test_the_reason_is_the_last_error_or_exception(tmp_path: Path, text: str, reason: str | None) -> None:
    assert error_in(log(tmp_path, text)) == reason


def test_a_log_without_an_error_says_how_it_ends(tmp_path: Path) -> None:
    assert last_word(log(tmp_path, "low on cpu\nspn: stage low: stopped by SIGTERM\n\n")).endswith("by SIGTERM")
    assert "45 %" in last_word(log(tmp_path, "\r".join(BARS)))
    assert last_word([]) == "nothing in its log"
    assert error_in(log(tmp_path, "\0" * 100 + "\xff\n")) is None


def test_what_an_earlier_job_left_in_a_log_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    assert read_lines(path, mark(path)) == []
    path.write_text("spn: error: of yesterday\n")
    before = mark(path)
    assert read_lines(path, before) == []
    path.write_text("spn: error: of today\n")
    os.utime(path, ns=(0, 0))
    assert read_lines(path, before) == ["spn: error: of today"]


def test_the_end_of_a_long_log_is_enough(tmp_path: Path) -> None:
    assert log(tmp_path, "x" * 10_000_000 + "\r" + BARS[1])[-1] == BARS[1].rstrip()


def two_trainings(slots: int) -> Estimate:
    """One training, then its evaluation; and another training."""
    jobs = {
        1: Planned("train", "low"),
        2: Planned("evaluate", "low", after=(1,)),
        3: Planned("train", "high"),
    }
    return Estimate(jobs, slots, {"low": {"train": 100.0, "evaluate": 20.0}, "high": {"train": 60.0, "evaluate": None}})


def test_the_time_left_is_the_longest_row_or_all_work_shared() -> None:
    assert two_trainings(slots=2).left({}) == 100 + 5 + 20 + 5
    assert two_trainings(slots=1).left({}) == 100 + 20 + 60 + 3 * 5
    slow = two_trainings(slots=2)
    slow.threads["train"] = 2  # one after the other, but for the evaluation
    assert slow.left({}) == (2 * 105 + 2 * 65 + 25) / 2


def test_a_bar_says_what_is_left_and_corrects_the_plan() -> None:
    estimate = two_trainings(slots=1)
    bar = Bar(50, 100.0, 100.0, 200.0)  # twice as long as planned
    estimate.see(1, bar)
    assert estimate.left({1: Running(100.0, bar)}) == 100 + (2 * 20 + 5) + (2 * 60 + 5)
    estimate.finish(1, 203.0, Bar(100, 200.0, 0.0, 200.0))
    assert estimate.left({}) == (2 * 20 + 3) + (2 * 60 + 3)
    assert estimate.left({3: Running(23.0)}) == (2 * 20 + 3) + (2 * 60 + 3 - 23)
    assert estimate.left({3: Running(1000.0)}) == (2 * 20 + 3) + 1


def test_a_training_that_returned_at_once_says_nothing_of_the_others() -> None:
    estimate = two_trainings(slots=1)
    estimate.finish(3, 5.0, None)
    assert estimate.left({}) == 100 + 20 + 2 * 5


def test_nothing_left_takes_no_time() -> None:
    assert Estimate({1: Planned("report")}, 1, {}, done={1}).left({}) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (59.0, "59 s"),
        (89.0, "89 s"),
        (170.0, "3 min"),
        (3600.0, "60 min"),
        (9000.0, "2.5 h"),
        (400_000.0, "4.6 days"),
    ],
)
def test_durations_are_rounded_as_estimates_are(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def progress(folder: Path, jobs: dict[int, Planned], done: set[int], is_remote: bool = False) -> Progress:
    (folder / "params.yaml").write_text("seed: 1\n")
    return Progress(Run(jobs, 2, is_remote, done.__contains__), folder, is_quiet=False)


def kept_plan(folder: Path) -> Path:
    """The plan that an earlier run kept."""
    plan = Plan(folder)
    path = folder / "logs/plan.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"params_sha256": plan._params, "stages": SECONDS}))
    return path


@pytest.mark.parametrize("is_remote", [False, True])
def test_a_line_says_how_far_everything_is(tmp_path: Path, capsys: pytest.CaptureFixture[str], is_remote: bool) -> None:
    done: set[int] = set()
    jobs = {1: Planned("preprocess"), 2: Planned("train", "low"), 3: Planned("evaluate", "low", (2,))}
    shown = progress(tmp_path, jobs, done, is_remote)
    try:
        kept_plan(tmp_path)
        shown._plan_when_due()
        for number, name in ((1, "preprocess"), (2, "train low")):
            shown.start(number, start_job(name, f"logs/{number}.log", tmp_path), 1)
        (tmp_path / "logs/1.log").write_text("made\n")
        done.add(1)
        shown.look()
        first = capsys.readouterr().err
        assert "] 1 of 3 jobs done, 1 running (train low" in first
        assert ("waiting" in first, "about 22 s left" in first) == (is_remote, not is_remote)
        (tmp_path / "logs/2.log").write_text("\r".join(BARS))
        shown._tell()
        assert "1 running (train low 45 %), about 14 s left\n" in capsys.readouterr().err
        line, (job,) = read_running(tmp_path) or ("", [])
        assert "train low 45 %" in line
        assert job.lines(tmp_path) == [BARS[1].rstrip()]
        done |= {2, 3}
        shown.look()
    finally:
        shown.end()
    assert read_running(tmp_path) is None


def test_why_there_is_no_estimate_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress(tmp_path, {1: Planned("train", "low"), 2: Planned("evaluate", "low", (1,))}, set())
    try:
        shown._plan = Plan(tmp_path)
        shown._plan._process = failed(tmp_path)
        for _ in range(2):
            shown._plan_when_due()
            shown._tell()
    finally:
        shown.end()
    first, *lines = capsys.readouterr().err.splitlines()
    assert "no estimate of the time left, because spn plan failed: --device: nothing" in first
    assert len(lines) == 2
    assert all(line.endswith("0 of 2 jobs done") for line in lines)


def failed(folder: Path) -> "subprocess.Popen[str]":
    """An `spn plan` that has failed."""
    code = "import sys; print('spn: error: --device: nothing', file=sys.stderr); sys.exit(2)"
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=pipe, stderr=pipe, text=True)
    process.wait()
    return process


def test_a_plan_is_kept_for_the_same_parameters_alone(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    kept = kept_plan(tmp_path)
    assert Plan(tmp_path).seconds() == SECONDS
    (tmp_path / "params.yaml").write_text("seed: 2\n")
    assert Plan(tmp_path).seconds() is None
    kept.write_text("{")
    assert Plan(tmp_path).seconds() is None
    plan = Plan(tmp_path)
    plan._process = failed(tmp_path)
    with pytest.raises(NoPlanError, match="--device: nothing"):
        plan.seconds()


Record = Callable[..., None]


@pytest.fixture
def follower(tmp_path: Path) -> Follower:
    (tmp_path / "logs").mkdir()
    return Follower(tmp_path, lambda: None)


def send(follower: Follower, event: str, **fields: object) -> None:
    """Send a record as Snakemake's logger does."""
    record = logging.makeLogRecord({"event": event, **fields})
    follower.handle(record)


def start(follower: Follower, number: int = 5) -> None:
    wildcards = {"stage": "low"}
    send(follower, "job_info", jobid=number, rule_name="train", wildcards=wildcards, log=["logs/low.log"], threads=1)


def fail(follower: Follower, number: int = 5, message: str | None = None) -> None:
    send(follower, "job_error", jobid=number, rule_name="train", log=["logs/low.log"], rule_msg=message)


SLURM = (
    "SLURM-job '7' failed, SLURM status is: 'TIMEOUT'. Detailed failure reason unavailable (...). For further error "
)


@pytest.mark.parametrize(
    ("text", "message", "reason"),
    [
        ("spn: error: no room\n", None, "no room"),
        ("spn: error: no room\n", SLURM, "no room"),
        (BARS[1], SLURM, "SLURM-job '7' failed, SLURM status is: 'TIMEOUT'"),
        (BARS[1], "For further error details see the cluster/cloud log", "ended at 45 % without an error"),
        ("", None, "nothing in its log"),
    ],
)
def test_a_failed_job_is_told_last_in_one_line(
    tmp_path: Path, follower: Follower, capsys: pytest.CaptureFixture[str], text: str, message: str, reason: str
) -> None:
    (tmp_path / "logs/low.log").write_text("spn: error: of an earlier run\n")
    start(follower)
    if text:
        (tmp_path / "logs/low.log").write_text(text)
    fail(follower, message=message)
    follower.end()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"spn: error: train low: {reason}")
    assert line.endswith("(logs/low.log)")


def test_a_retry_that_goes_well_is_no_failure(
    tmp_path: Path, follower: Follower, capsys: pytest.CaptureFixture[str]
) -> None:
    start(follower)
    fail(follower)
    start(follower)
    follower.end()
    assert capsys.readouterr().err == ""


def test_a_job_that_made_too_little_is_told_too(follower: Follower, capsys: pytest.CaptureFixture[str]) -> None:
    send(follower, "error", exception="MissingOutputException", msg="MissingOutputException in line 3:\nmissing: a.h5")
    follower.end()
    assert capsys.readouterr().err == "spn: error: MissingOutputException in line 3: missing: a.h5\n"


def test_an_error_of_its_own_is_told_and_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> Run:
        raise AttributeError("another Snakemake")

    follower = Follower(tmp_path, broken)
    send(follower, "job_started", jobs=[5])
    start(follower)
    fail(follower)
    follower.end()
    first, second = capsys.readouterr().err.splitlines()
    assert first == "spn: progress is no longer shown: AttributeError('another Snakemake')"
    assert second.startswith("spn: error: train low: ")


def test_watch_shows_a_line_of_each_running_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["watch"]) == 0
    assert "nothing runs here" in capsys.readouterr().out
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/low.log").write_text("\r".join(BARS))
    write_running(tmp_path, "0 of 2 jobs done", [Job("train low", "logs/low.log"), Job("train high", "logs/high.log")])
    assert main(["watch", "--once"]) == 0
    whole, low, high = capsys.readouterr().out.splitlines()
    assert whole == "0 of 2 jobs done"
    assert low == f"train low   {BARS[1].rstrip()}"
    assert high == "train high  waiting"


def test_a_dead_snakemake_runs_nothing(tmp_path: Path) -> None:
    write_running(tmp_path, "1 of 2 jobs done", [])
    path = tmp_path / "logs/running.json"
    state = json.loads(path.read_text())
    assert read_running(tmp_path) is not None
    process = subprocess.Popen(["true"])
    process.wait()
    path.write_text(json.dumps(state | {"process": process.pid}))
    assert read_running(tmp_path) is None
    path.write_text(json.dumps(state | {"host": "elsewhere"}))
    assert read_running(tmp_path) is not None
    os.utime(path, (0, 0))
    assert read_running(tmp_path) is None


def test_watch_needs_no_torch() -> None:
    code = "import sys, spn.cli.main; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ctrl_c_ends_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.sleep", Mock(side_effect=KeyboardInterrupt))
    write_running(tmp_path, "0 of 1 jobs done", [])
    assert main(["watch"]) == 0
    assert capsys.readouterr().out == "0 of 1 jobs done\n"
