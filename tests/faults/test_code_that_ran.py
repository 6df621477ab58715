"""The digest of code is of the code that ran: sources are edited before, while and after a real process loads them."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment import tiny_params, write_params

from spn.checkpoint import load_tensors

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

ROOT = Path(__file__).parents[2]
SECONDS = 300

SCHEDULE = "training/optimiser.py", "0.5 * (1 + math.cos", "0.4 * (1 + math.cos"
"""An edit that leaves the size of its file as it was."""
FAMILY = (
    "models/spn.py",
    "        self.shape = shape\n        self.embedder",
    """\
        self.shape = shape
        torch.nn.Linear(1, 1)  # draws random numbers, so that all weights begin otherwise
        self.embedder""",
)

DIGEST = """
from pathlib import Path
from spn.config import load_params
from spn.provenance.recipes import verb_digest
print(verb_digest("train", load_params(Path("params.yaml")).stages["low"]))
"""

BEGUN = """
import sys
import {module}
print("loaded", flush=True)
sys.stdin.readline()
from spn.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""A verb that has loaded a module, and goes on when it is given a line: the time between an import and the digest."""


@dataclass(frozen=True)
class Project:
    """A folder with a copy of the package, in which a training was never disturbed."""

    folder: Path

    def start(self, *command: str, **pipes: Any) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, *command], cwd=self.folder, env=environment, text=True, **pipes)

    def run(self, *command: str) -> str:
        process = self.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        said, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, errors
        return said.strip()

    def digest(self) -> str:
        """Compute the digest of what lies on the disk, in a process that has loaded none of it."""
        return self.run("-c", DIGEST)

    def trained(self, place: str) -> tuple[dict[str, torch.Tensor], str]:
        """Read the weights of a training, and the digest of code beside them."""
        weights, notes = load_tensors(self.folder / place / "checkpoint.safetensors")
        return weights, notes["recipe"]["code_digest"]

    def is_as_undisturbed(self, place: str) -> bool:
        weights, _ = self.trained(place)
        return all(torch.equal(weight, weights[name]) for name, weight in self.trained("undisturbed")[0].items())

    @contextlib.contextmanager
    def edited(self, module: str, old: str, new: str, hidden: bool = False) -> Iterator[Path]:
        """Edit a module, with the times it had where this is to be `hidden`, and put it back in the end."""
        path = self.folder / "spn" / module
        text, times = path.read_text(), path.stat()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
        if hidden:
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            assert path.stat().st_size == times.st_size
        try:
            yield path
        finally:
            path.write_text(text)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def train_command(place: str, runs: str) -> list[str]:
    given = ["--data", "low.h5", "--experiment", "experiment.json", "--runs", runs, "--device", "cpu"]
    return ["train", "low", *given, "--output", place]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("code"))
    shutil.copytree(ROOT / "spn", project.folder / "spn", ignore=shutil.ignore_patterns("__pycache__"))
    write_params(project.folder, tiny_params())
    project.run("-m", "spn", "preprocess", "--scale-factor", "2", "--output", "low.h5")
    project.run("-m", "spn", *train_command("undisturbed", "runs"))
    assert project.trained("undisturbed")[1] == project.digest()
    return project


@pytest.mark.parametrize(
    ("module", "edit"), [("spn.training", SCHEDULE), ("spn.cli.main", FAMILY)], ids=["loaded", "not loaded yet"]
)
def test_an_edit_between_import_and_digest(project: Project, module: str, edit: tuple[str, str, str]) -> None:
    """Either the old code ran, and is what is told, or the new one, and that is."""
    place = f"begun_{module}"
    code = BEGUN.format(module=module)
    process = project.start(
        "-c", code, *train_command(place, place), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loaded\n"
    with project.edited(*edit):
        edited = project.digest()
        _, errors = process.communicate("\n", timeout=SECONDS)
    assert process.returncode == 0, errors
    _, told = project.trained(place)
    ran_old = project.is_as_undisturbed(place)
    assert ran_old == (module == "spn.training")
    assert told == (project.digest() if ran_old else edited)


def test_an_edit_while_the_lock_is_waited_for(project: Project) -> None:
    """It is put back before anybody looks; the family was once imported behind the lock."""
    (lock,) = (project.folder / "runs").glob(".low-*.lock")
    runs = project.folder / "waited"
    runs.mkdir()
    with (runs / lock.name).open("a") as held, (project.folder / "waiting.log").open("w") as log:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = project.start("-m", "spn", *train_command("waited", "waited"), stderr=log.fileno())
        wait_until(lambda: "waiting for another process" in (project.folder / "waiting.log").read_text(), process)
        with project.edited(*FAMILY):
            fcntl.flock(held, fcntl.LOCK_UN)
            assert process.wait(SECONDS) == 0, (project.folder / "waiting.log").read_text()
    assert project.trained("waited")[1] == project.digest()
    assert project.is_as_undisturbed("waited")


def test_an_edit_hidden_by_the_times_of_its_file(project: Project) -> None:
    """`touch -r`, `cp -p` and `rsync -t` leave size and time as Python's bytecode of the old source has them."""
    with project.edited(*SCHEDULE, hidden=True) as path:
        assert list(path.parent.glob("__pycache__/optimiser.*.pyc"))
        project.run("-m", "spn", *train_command("hidden", "hidden"))
        _, told = project.trained("hidden")
        assert told == project.digest()
    assert told != project.digest()
    assert not project.is_as_undisturbed("hidden")


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
