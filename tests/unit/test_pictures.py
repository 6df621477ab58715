"""Pictures are decoded in several processes to the same file, in bounded memory, and nothing else is left."""

import io
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from source_files import data_section, random_images

from spn.cli import main
from spn.config import DataSection, FolderData, InputError
from spn.data.preprocess import write_slices
from spn.data.sources import pictures
from spn.data.sources.picture import decode_picture
from spn.files import WriteError

pytestmark = pytest.mark.slow

COUNT = 60
"""More than all processes decode at a time."""
BAD = {"05.png": b"", "17.jpg": b"no image", "31.png": b"\x89PNG\r\n\x1a\n" + bytes(40), "59.webp": b"RIFF"}

Contents = dict[str, bytes]


def section(**keys: object) -> DataSection:
    given = {"source": "folder", "name": "pictures", "bits": 8, "size": 8, "channels": 3, "fit": "crop"}
    return data_section(**given | {"filter": "box", "validation": 2, "test": 3, "unreadable": "skip"} | keys)


def contents_of(count: int, size: int = 12) -> Contents:
    found: Contents = {}
    for number, picture in enumerate(random_images(count, size, size, 3)):
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "PNG")
        found[f"{number:02}.png"] = content.getvalue()
    return found


def write_folder(root: Path, contents: Contents) -> None:
    (root / "pictures").mkdir(parents=True)
    for name, content in contents.items():
        (root / "pictures" / name).write_bytes(content)


def write_zip(root: Path, contents: Contents) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(root / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


Write = Callable[[Path, Contents], None]
PLACES = pytest.mark.parametrize("write", [write_folder, write_zip])


@PLACES
def test_any_number_of_processes_writes_the_same_file(
    tmp_path: Path, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, contents_of(COUNT) | BAD)
    said, made = [], []
    for processes in (1, 3):
        output = tmp_path / "out" / "S2.h5"
        write_slices(section(), 2, (0, 3, 8), tmp_path, output, progress=False, processes=processes)
        said.append(capsys.readouterr())
        made.append(output.read_bytes())
        assert [path.name for path in output.parent.iterdir()] == ["S2.h5"]
    assert made[0] == made[1]
    assert said[0] == said[1]
    assert said[0].err.count("skipped ") == len(BAD)


@PLACES
def test_bad_pictures_are_told_in_the_same_line(tmp_path: Path, write: Write) -> None:
    write(tmp_path, contents_of(COUNT) | BAD)
    said, refusing, output = [], section(unreadable="refuse"), tmp_path / "out" / "S2.h5"
    for processes in (1, 2):
        with pytest.raises(InputError) as error:
            write_slices(refusing, 2, (0, 8), tmp_path, output, progress=False, processes=processes)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert all(name in said[0] for name in BAD)
    assert not (tmp_path / "out").exists()


def test_there_is_one_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path, contents_of(COUNT))
    write_slices(section(), 2, (0, 8), tmp_path, tmp_path / "S2.h5", processes=2)
    bars = {line.split(":")[0].strip() for line in capsys.readouterr().err.replace("\r", "\n").splitlines()}
    assert bars - {""} == {"decode pictures", "preprocess pictures"}


@pytest.mark.parametrize("processes", [1, pytest.param(2)])
def test_memory_does_not_grow_with_the_pictures(tmp_path: Path, processes: int) -> None:
    peaks = []
    for count in (300, 600):
        root = tmp_path / str(count)
        write_folder(root, contents_of(count, size=64))
        found = []
        for _ in range(2):  # the lower, because garbage that is not collected yet may make up a batch
            tracemalloc.start()
            write_slices(section(size=64), 2, (0, 8), root, root / "S2.h5", progress=False, processes=processes)
            found.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        peaks.append(min(found))
    # The larger folder holds 3.7 MB more of pixels; what may grow is some words a picture, for names and digests.
    assert peaks[1] - peaks[0] < 1e6


def test_the_temporary_file_lies_beside_the_output_and_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, contents_of(4))
    seen = []
    data = tmp_path / "data"

    def look(content: bytes, of: FolderData) -> np.ndarray:
        links = [each for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        seen.append(([*data.iterdir()], sum(os.readlink(each).startswith(f"{data}/") for each in links)))
        return decode_picture(content, of)

    monkeypatch.setattr(pictures, "decode_picture", look)
    data.mkdir()
    write_slices(section(validation=1, test=1), 2, (0, 8), tmp_path, data / "S2.h5", progress=False)
    assert seen == [([], 1)] * 4
    assert [*data.iterdir()] == [data / "S2.h5"]


def test_processes_that_loaded_other_code_decode_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the code were edited between the start of the parent and that of its processes."""
    write_folder(tmp_path, contents_of(COUNT))
    monkeypatch.setattr(pictures, "code_digest", lambda root: "of other code")
    with pytest.raises(InputError, match=r"pictures: expected the same code in all processes, it was edited; run the"):
        write_slices(section(), 2, (0, 8), tmp_path, tmp_path / "S2.h5", progress=False, processes=2)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_a_disk_that_takes_no_pictures_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, contents_of(4))

    def refuse(*given: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(WriteError, match=rf"^{tmp_path}: could not be written: No space left on device$"):
        write_slices(section(), 2, (0, 8), tmp_path, tmp_path / "S2.h5", progress=False)


def test_threads_are_processes_that_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiment import tiny_params, write_params

    write_folder(tmp_path / "sources", contents_of(COUNT))
    params = tiny_params() | {"data": section().model_dump(mode="json") | {"channels": 1, "bits": 5}}
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, params)
    started: list[int] = []

    def executor(count: int, *others: Any) -> ProcessPoolExecutor:
        started.append(count)
        return ProcessPoolExecutor(count, *others)

    monkeypatch.setattr(pictures, "ProcessPoolExecutor", executor)
    for threads in ("1", "2"):
        command = ["preprocess", "--scale-factor", "2", "--output", f"S2_{threads}.h5", "--threads", threads]
        assert main(command) == 0
    assert started == [2]
    assert Path("S2_1.h5").read_bytes() == Path("S2_2.h5").read_bytes()
