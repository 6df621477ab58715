"""A disk that is full or read-only: one line names the file, nothing is lost, and with room the command goes on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from copies import copy_experiment, move_artefacts
from damages import Experiment
from experiment import tiny_params, write_params
from PIL import Image
from tracked import open_at

from spn.checkpoint import load_tensors
from spn.cli import main
from spn.config import load_params
from spn.data.hdf5 import SliceFile
from spn.data.images import read_images
from spn.files import WriteError, write_json
from spn.notes import read_tensor_notes
from spn.training import train_stage
from spn.training.history import Row

# One worker makes the experiment.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("disk_full")]

MEGABYTES = 4


@dataclass(frozen=True)
class Disk:
    """A small file system of its own."""

    place: Path

    def fill(self, leaving: int = 0) -> None:
        """Take all room but `leaving` bytes."""
        state = os.statvfs(self.place)
        (self.place / "ballast").write_bytes(bytes(state.f_bavail * state.f_frsize - leaving))

    def empty(self) -> None:
        """Free the room."""
        (self.place / "ballast").unlink()

    def refuse(self) -> None:
        """Take no more writing, as a disk does that has faults, or a file system that somebody else owns."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.place)], check=True)

    def accept(self) -> None:
        """Take writing again."""
        subprocess.run(["mount", "-o", "remount,rw", str(self.place)], check=True)

    def content(self) -> dict[str, bytes]:
        """Read every file but the ballast, and locks, which are empty."""
        files = [path for path in self.place.rglob("*") if path.is_file() and path.name != "ballast"]
        files = [path for path in files if path.suffix != ".lock"]
        return {str(path.relative_to(self.place)): path.read_bytes() for path in files}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "none", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small file system may be mounted here: {done.stderr.strip()}")
    yield Disk(place)
    # Lazily, for HDF5 keeps a file open that it could not close.
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole experiment, with samples of all its stages."""
    experiment = Experiment(tmp_path_factory.mktemp("made"))
    experiment.make()
    experiment.sample("low", "--given", experiment.samples("high") / "samples.h5")
    experiment.summarise()
    return experiment.folder


@pytest.fixture
def experiment(made: Path, disk: Disk) -> Experiment:
    """A copy of it on the small disk."""
    return Experiment(copy_experiment(made, disk.place / "results"))


def fails(command: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must end with status 1; return its one line."""
    capsys.readouterr()
    assert main([str(argument) for argument in command]) == 1
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if line.startswith("spn: error: ")]
    assert said == lines[-1:]
    return said[0]


def assert_goes_on(command: list[object], disk: Disk, before: dict[str, bytes]) -> None:
    """Check that a failure has left everything as it was, and that the command completes with room."""
    assert disk.content() == before
    disk.empty()
    assert main([str(argument) for argument in command]) == 0


@pytest.mark.parametrize("leaving", [0, 1 << 13, 1 << 14])
def test_preprocess(
    experiment: Experiment, disk: Disk, leaving: int, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (experiment.data).write_bytes(b"of another time")
    disk.fill(leaving)
    before = disk.content()
    command = ["preprocess", "--params", experiment.params, "--scale-factor", "2", "--output", experiment.data]
    expected = f"spn: error: {experiment.data}: could not be written: No space left on device"
    assert fails(command, capsys) == expected
    assert_goes_on(command, disk, before)
    assert experiment.data.read_bytes() == (made / "S2.h5").read_bytes()


@pytest.mark.parametrize("threads", ["1", "2"])
def test_decoding_pictures(
    experiment: Experiment, disk: Disk, threads: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They take more than what is left before the first byte of the output is written."""
    pictures = disk.place.parent / "sources" / "pictures"
    pictures.mkdir(parents=True)
    for number in range(20):
        Image.fromarray(np.full((40, 40), number, dtype=np.uint8)).save(pictures / f"{number}.png")
    data = {"source": "folder", "name": "pictures", "bits": 5, "size": 40, "channels": 1, "fit": "crop"}
    raw = tiny_params() | {"data": data | {"filter": "box", "validation": 2, "test": 2}}
    params, output = write_params(disk.place.parent, raw), disk.place / "new" / "S2.h5"
    disk.fill(1 << 13)
    before = disk.content()
    command = ["preprocess", "--params", params, "--scale-factor", "2", "--output", output, "--threads", threads]
    command += ["--sources", pictures.parent, "--runs", disk.place / "runs"]
    said = fails(command, capsys)
    assert said.startswith(f"spn: error: {disk.place}/runs/pictures-S2-")
    assert said.endswith(".pictures: could not be written: No space left on device")
    assert_goes_on(command, disk, before)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(folder / "checkpoint.safetensors")[0]


def assert_same_weights(folder: Path, other: Path) -> None:
    first, second = weights(folder), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_checkpoint(made: Path, disk: Disk) -> None:
    params, data = load_params(made / "params.yaml"), SliceFile(made / "S2.h5")
    output, runs, device = disk.place / "low", disk.place.parent / "runs", torch.device("cpu")
    disk.fill()
    with pytest.raises(WriteError, match=rf"^{output}/checkpoint\.safetensors: could not be written: No space left"):
        train_stage(params, "low", data, output, runs, device)
    assert disk.content() == {}
    disk.empty()
    train_stage(params, "low", data, output, runs, device)
    assert_same_weights(output, made / "stages" / "low")


def test_the_state_of_a_training(made: Path, disk: Disk, tmp_path: Path) -> None:
    section = tiny_params() | {"data": load_params(made / "params.yaml").data.model_dump(mode="json")}
    section["stages"]["low"]["training"] |= {"steps": 4, "validate_every": 2}
    params, data = load_params(write_params(tmp_path, section)), SliceFile(made / "S2.h5")
    runs, device = disk.place / "runs", torch.device("cpu")

    def fill_at_the_end(row: Row) -> None:
        if row["step"] == 4:
            disk.fill()

    with pytest.raises(WriteError, match=rf"^{runs}/low-\w+\.safetensors: could not be written: No space left"):
        train_stage(params, "low", data, tmp_path / "low", runs, device, fill_at_the_end)
    (state,) = runs.iterdir()
    assert read_tensor_notes(state)["step"] == 2
    disk.empty()
    train_stage(params, "low", data, tmp_path / "low", runs, device)
    train_stage(params, "low", data, tmp_path / "whole", tmp_path / "runs", device)
    assert_same_weights(tmp_path / "low", tmp_path / "whole")


@pytest.mark.parametrize("leaving", [0, 1 << 13])
def test_sample(experiment: Experiment, disk: Disk, leaving: int, capsys: pytest.CaptureFixture[str]) -> None:
    disk.fill(leaving)
    before = disk.content()
    command = ["sample_stage", "depth", "high", "--params", experiment.params, "--data", experiment.data]
    command += ["--checkpoint", experiment.checkpoint("high"), "--output", experiment.samples("high")]
    expected = f"spn: error: {experiment.samples('high')}/samples.h5: could not be written: No space left on device"
    assert fails(command, capsys) == expected
    assert_goes_on(command, disk, before)
    assert len(read_images(experiment.samples("high") / "samples.h5")[0]) == 4


def test_evaluate(experiment: Experiment, disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    disk.fill()
    before = disk.content()
    folder = experiment.stage("low")
    command = ["evaluate", "low", "--params", experiment.params, "--data", experiment.data]
    command += ["--checkpoint", experiment.checkpoint("low"), "--output", folder]
    expected = f"spn: error: {folder / 'nats.npy'}: could not be written: No space left on device"
    assert fails(command, capsys) == expected
    assert_goes_on(command, disk, before)


def test_report(experiment: Experiment, disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["report", "--params", experiment.params, "--data", experiment.data, "--results", experiment.folder]
    disk.fill()
    before = disk.content()
    message = fails(command, capsys)
    assert message.startswith(f"spn: error: {experiment.folder}/")
    assert message.endswith(": could not be written: No space left on device")
    assert_goes_on(command, disk, before)
    assert (experiment.folder / "plots/gallery.html").exists()


def written_by(verb: str, experiment: Experiment) -> tuple[list[object], Path]:
    """Return the command of a verb that writes to the small disk, and what it writes there first."""
    common: list[object] = ["--params", experiment.params, "--data", experiment.data]
    low, elsewhere = ["--checkpoint", experiment.checkpoint("low")], experiment.folder.parents[1]
    runs, handle = experiment.folder / "runs", experiment.folder / "mlflow" / "experiment.json"
    train = ["train", "low", *common, "--output", elsewhere / "low"]
    samples = experiment.samples("high")
    given = ["--checkpoint", experiment.checkpoint("high"), "--output", samples]
    summarised = experiment.folder / "chains/depth/metrics.json"
    return {
        "preprocess": (
            ["preprocess", *common[:2], "--scale-factor", "2", "--output", experiment.data],
            experiment.data,
        ),
        "train, its state": ([*train, "--runs", runs, "--experiment", elsewhere / "handle.json"], runs),
        "train, its handle": ([*train, "--runs", elsewhere / "runs", "--experiment", handle], handle),
        "evaluate": (
            ["evaluate", "low", *common, *low, "--output", experiment.stage("low")],
            experiment.stage("low") / "nats.npy",
        ),
        "sample": (["sample_stage", "depth", "high", *common, *given], samples),
        "summarise": (
            ["summarise", "depth", *common[:2], "--results", experiment.folder, "--output", summarised],
            summarised,
        ),
        "report": (["report", *common, "--results", experiment.folder], experiment.folder),
    }[verb]


VERBS = ("preprocess", "train, its state", "train, its handle", "evaluate", "sample", "summarise", "report")


@pytest.mark.parametrize("verb", VERBS)
def test_a_disk_that_may_only_be_read(
    experiment: Experiment,
    disk: Disk,
    verb: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    command, place = written_by(verb, experiment)
    disk.refuse()
    before = disk.content()
    said = fails(command, capsys)
    assert said.startswith(f"spn: error: {place}")
    assert said.endswith(": could not be written: Read-only file system")
    assert disk.content() == before
    disk.accept()
    assert main([str(argument) for argument in command]) == 0


def test_a_store_that_may_only_be_read(
    experiment: Experiment,
    disk: Disk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{disk.place}/mlflow.db")
    command = ["train", "low", "--params", experiment.params, "--data", experiment.data, "--output", tmp_path / "low"]
    command += ["--runs", tmp_path / "runs", "--experiment", tmp_path / "handle.json"]
    expected = f"spn: error: {disk.place}/mlflow.db.lock: could not be written: Read-only file system"
    disk.refuse()
    assert fails(command, capsys) == expected
    disk.accept()
    made = open_at(f"sqlite:///{tmp_path}/made.db", tmp_path / "made.json")
    shutil.copyfile(tmp_path / "made.db", disk.place / "mlflow.db")  # which no process has open
    move_artefacts(disk.place / "mlflow.db", tmp_path, disk.place)
    write_json(tmp_path / "handle.json", {"uri": f"sqlite:///{disk.place}/mlflow.db", "id": made.id})
    disk.refuse()
    assert fails(command, capsys) == expected
    disk.accept()
    assert main([str(argument) for argument in command]) == 0


def test_a_file_in_place_of_the_folder_of_states(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_bytes(b"")
    command = ["train", "low", "--params", made / "params.yaml", "--data", made / "S2.h5"]
    command += ["--runs", tmp_path / "runs", "--output", tmp_path / "low"]
    said = fails(command, capsys)
    assert said.startswith(f"spn: error: {tmp_path}/runs/.low-")
    assert said.endswith(".lock: could not be written: File exists")


def test_all_of_this_as_a_user_who_may_not_mount() -> None:
    """In a namespace, where any user may."""
    if os.geteuid() == 0:
        pytest.skip("root may mount")
    namespace = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("users have no namespaces here")
    tests = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", __file__]
    done = subprocess.run([*namespace, *tests], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout
    assert "no small file system may be mounted" not in done.stdout, done.stdout
