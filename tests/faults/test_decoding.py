"""Processes that decode pictures end with the command that started them, however that ends, and the next goes on."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from experiment import tiny_params, write_params
from PIL import Image
from source_files import random_images

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

COUNT = 4000
"""Links to one picture, whose decoding takes some 10 ms: long enough that the command is met at work."""
SECONDS = 60

SPOILING = """
import sys
from spn.cli import main
from spn.data.sources import folder

sound = folder.list_pictures

def spoil(place):
    names = sound(place)
    place.write_bytes(b"PK not really")
    return names

folder.list_pictures = spoil
if __name__ == "__main__":
    sys.exit(main(["preprocess", "--scale-factor", "2", "--output", "data/S2.h5", "--threads", "2"]))
"""
"""The command, where the zip is spoilt between the listing of its names and the decoding."""

NOTING = """
import sys
from spn.cli import main
from spn.data.sources import spool

spool.NOTE_SECONDS = 0.2
if __name__ == "__main__":
    arguments = ["preprocess", "--scale-factor", "2", "--threads", "2"]
    sys.exit(main([*arguments, "--output", f"{sys.argv[1]}/S2.h5", "--runs", f"{sys.argv[1]}/runs"]))
"""
"""The command, with five notes a second of what it has decoded."""
KILLS = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_experiment(tmp_path, COUNT)


def write_experiment(tmp_path: Path, count: int) -> Path:
    """Write params.yaml, and a folder with so many pictures."""
    (tmp_path / "sources/pictures").mkdir(parents=True)
    Image.fromarray(random_images(1, 600, 600, 3)[0]).save(tmp_path / "one.png")
    for number in range(count):
        os.link(tmp_path / "one.png", tmp_path / f"sources/pictures/{number:04}.png")
    data = {"source": "folder", "name": "pictures", "bits": 5, "size": 8, "channels": 1, "fit": "resize"}
    write_params(tmp_path, tiny_params() | {"data": data | {"filter": "box", "validation": 2, "test": 2}})
    return tmp_path


@pytest.fixture
def command(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`spn preprocess` while two processes decode for it."""
    arguments = ["preprocess", "--scale-factor", "2", "--output", "data/S2.h5", "--threads", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "spn", *arguments],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell in the background has its commands ignore Ctrl-C.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    yield process
    process.kill()
    process.wait()


def workers_at_work(command: subprocess.Popen[str]) -> list[psutil.Process]:
    """Wait until both processes have decoded for a while; return all that the command has started."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        children = psutil.Process(command.pid).children(recursive=True)
        if sum(sum(child.cpu_times()[:2]) > 1 for child in children) >= 2:
            return children
        assert command.poll() is None, command.communicate()
        time.sleep(0.1)
    pytest.fail("no two processes decode")


def assert_nothing_left(folder: Path, children: list[psutil.Process], pictures: int = 0) -> None:
    """Of less than a minute there is no note, but pictures lie there if the command could not remove them."""
    _, alive = psutil.wait_procs(children, timeout=SECONDS)
    assert alive == []
    made = {"data", ".cache", "runs"}
    assert {path.name for path in folder.iterdir()} - made == {"one.png", "params.yaml", "sources"}
    assert not (folder / "data").exists() or not any((folder / "data").iterdir())
    assert sorted(path.suffix for path in (folder / "runs").iterdir()) == [".lock", *[".pictures"] * pictures]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_all_end_with_the_command(folder: Path, command: subprocess.Popen[str], number: int) -> None:
    children = workers_at_work(command)
    if number == signal.SIGINT:
        os.killpg(command.pid, number)  # as a terminal does
    else:
        command.send_signal(number)
    said = command.communicate(timeout=SECONDS)[1]
    assert_nothing_left(folder, children, pictures=number != signal.SIGINT)
    assert "Traceback" not in said
    if number == signal.SIGINT:
        assert command.returncode == 128 + number
        assert said.replace("\r", "\n").splitlines()[-1] == "spn: error: interrupted"
    else:
        assert command.returncode == -number


def test_a_process_that_is_killed_is_told_in_one_line(folder: Path, command: subprocess.Popen[str]) -> None:
    children = workers_at_work(command)
    max(children, key=lambda child: sum(child.cpu_times()[:2])).kill()
    said = command.communicate(timeout=SECONDS)[1]
    assert command.returncode == 2
    errors = [line for line in said.replace("\r", "\n").splitlines() if line.startswith("spn: error: ")]
    expected = "expected all processes that decode it to go on, one of them was killed or could not start"
    assert errors == [f"spn: error: sources/pictures: {expected}"]
    assert said.replace("\r", "\n").splitlines()[-1] == errors[0]
    assert_nothing_left(folder, children)


def test_a_zip_that_goes_away_is_told_in_one_line(folder: Path) -> None:
    """Processes open it by themselves."""
    shutil.rmtree(folder / "sources/pictures")
    with zipfile.ZipFile(folder / "sources/pictures.zip", "w") as archive:
        for number in range(20):
            archive.write(folder / "one.png", f"{number}.png")
    (folder / "script.py").write_text(SPOILING)
    done = subprocess.run([sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 2, done.stderr
    assert (
        done.stderr.replace("\r", "\n")
        .splitlines()[-1]
        .startswith("spn: error: sources/pictures.zip: expected a zip archive, got: ")
    )
    assert not (folder / "data").exists()


def done(folder: Path) -> int:
    """Return how many pictures the last note counts; 0 where there is none."""
    notes = list((folder / "out/runs").glob("*.json"))
    return int(json.loads(notes[0].read_text())["done"]) if notes else 0


def test_whatever_kills_it_the_next_goes_on_to_the_same_file(tmp_path: Path) -> None:
    """SIGKILL and SIGTERM at random moments, from the start of the process on, but later each time."""
    count = COUNT // 4
    folder, moments, counts = write_experiment(tmp_path, count), random.Random(1), [0]
    (folder / "script.py").write_text(NOTING)
    command = [sys.executable, "script.py"]
    for kill in range(KILLS):
        with (folder / "log").open("w") as log:
            process = subprocess.Popen([*command, "out"], cwd=folder, stdout=log, stderr=log)
        deadline = time.monotonic() + SECONDS
        while kill and done(folder) <= counts[-1] and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        assert process.poll() is None, "ended before it was killed"
        process.send_signal(signal.SIGTERM if kill % 3 == 2 else signal.SIGKILL)
        process.wait()
        counts.append(done(folder))
        assert not list((folder / "out").glob("*.h5"))
    assert counts == sorted(counts)
    assert 0 < counts[2] < counts[-1] < count
    subprocess.run([*command, "whole"], cwd=folder, check=True, capture_output=True)
    finished = subprocess.run([*command, "out"], cwd=folder, check=True, capture_output=True, text=True)
    begun = re.search(rf" (\d+)/{count} ", finished.stderr)
    assert begun is not None
    assert int(begun[1]) == counts[-1]
    assert (folder / "out/S2.h5").read_bytes() == (folder / "whole/S2.h5").read_bytes()
    assert [path.suffix for path in (folder / "out/runs").iterdir()] == [".lock"]
