"""What is no file, under the name of a file that a verb reads: refused by name, for reading a pipe may never end."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from source_files import data_section

from spn.config import ArraysData, FolderData, InputError, load_params
from spn.config.data import SourceSection
from spn.data.hdf5 import SliceFile
from spn.data.sources import open_source
from spn.evaluation.evaluate import load_nats
from spn.files import read_json
from spn.notes import read_tensor_notes
from spn.tracking import load_experiment

SECONDS = 20
"""After which what waits for a pipe is let go, so that its test fails."""


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A named pipe that nothing is ever written to."""
    path = tmp_path / "pipe"
    os.mkfifo(path)

    # In a process of its own, for some libraries keep Python's lock while they open a file.
    let_go = ["sh", "-c", f'sleep {SECONDS}; while : > "$0"; do sleep 0.1; done', str(path)]
    with subprocess.Popen(let_go, start_new_session=True) as process:
        yield path
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "read",
    [load_params, read_tensor_notes, SliceFile, read_json, load_experiment, lambda path: load_nats(path, None)],
    ids=["params", "checkpoint", "slices", "metrics", "handle", "nats"],
)
def test_a_pipe_is_refused_by_name(read: Callable[[Path], object], pipe: Path) -> None:
    with pytest.raises(InputError, match=rf"^{pipe}: expected .*, got (a named pipe|something else|no such file)$"):
        read(pipe)


def folder_section(**keys: object) -> FolderData:
    section = {"source": "folder", "name": "pictures", "bits": 8, "size": 8, "channels": 1, "fit": "crop"}
    return FolderData.model_validate({**section, "filter": "box", "validation": 1, "test": 1, **keys})


def special_files(folder: Path, pipe: Path) -> None:
    """Put a pipe, a link to it, a socket, a device and a folder among four pictures."""
    folder.mkdir()
    for index in range(4):
        Image.fromarray(np.full((8, 8), index, dtype=np.uint8)).save(folder / f"{index}.png")
    os.link(pipe, folder / "pipe.png")
    (folder / "link.png").symlink_to(pipe)
    (folder / "device.png").symlink_to("/dev/null")
    (folder / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(folder / "socket.png"))  # an address is short


SPECIAL = ("pipe.png", "link.png", "device.png", "folder.png", "socket.png")


def test_what_is_no_file_among_pictures_is_refused_or_skipped(tmp_path: Path, pipe: Path) -> None:
    special_files(tmp_path / "pictures", pipe)
    with pytest.raises(InputError, match=r"pictures: expected intact images .* got 5 of 9 ") as caught:
        open_source(folder_section(), tmp_path)
    assert all(f"{name} (not a file)" in str(caught.value) for name in SPECIAL)
    assert sorted(open_source(folder_section(unreadable="skip"), tmp_path).skipped) == sorted(SPECIAL)


@pytest.mark.parametrize("name", ["train.npy", "train.npz"])
def test_a_pipe_in_place_of_an_array_is_refused(name: str, tmp_path: Path, pipe: Path) -> None:
    (tmp_path / "arrays").mkdir()
    os.link(pipe, tmp_path / "arrays" / name)
    keys = {"source": "arrays", "name": "arrays", "bits": 8, "size": 8, "channels": 1, "release": "none"}
    section = ArraysData.model_validate({**keys, "validation": 1, "test": 1})
    with pytest.raises(InputError, match=rf"{name}: expected a file, got a named pipe$"):
        open_source(section, tmp_path)


@pytest.mark.parametrize(
    ("section", "place"),
    [
        (data_section(source="cifar10", name="set", bits=8, validation=1), "cifar-10-python.tar.gz"),
        (data_section(source="mnist", name="set", bits=8, validation=1), "mnist/train-images-idx3-ubyte.gz"),
        (folder_section(), "pictures.zip"),
    ],
    ids=["cifar10", "mnist", "zip"],
)
def test_a_pipe_in_place_of_an_archive_is_no_archive(
    section: SourceSection, place: str, tmp_path: Path, pipe: Path
) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    os.link(pipe, tmp_path / place)
    with pytest.raises(InputError, match=rf"{place}: expected .*, got no such file"):
        open_source(section, tmp_path)
