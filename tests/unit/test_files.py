"""Writing by renaming: under any name, and without what dead processes left half written."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from spn.config import InputError
from spn.files import read_json, replacing, write_bytes

LONG = "é" * 127
"""254 bytes, of the 255 that a name may have."""


def killed_while_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leave what a process leaves that is killed while it writes a file; return the path."""
    with subprocess.Popen(["true"]) as dead:
        pass
    with monkeypatch.context() as context:
        context.setattr("os.getpid", lambda: dead.pid)
        context.setattr(Path, "unlink", lambda *_, **__: None)
        with suppress(KeyboardInterrupt), replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt
    assert temporary.exists()
    return temporary


@pytest.mark.parametrize("name", ["plain.h5", "x**y.png", "x[y.png", "x[ab]?.png", pytest.param(f"{LONG}x", id="long")])
def test_what_a_dead_process_left_is_removed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    killed_while_writing(path, monkeypatch)
    write_bytes(path, b"whole")
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == b"whole"


def test_what_is_left_of_another_long_name_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = killed_while_writing(tmp_path / f"{LONG}y", monkeypatch)
    write_bytes(tmp_path / f"{LONG}x", b"whole")
    assert left.exists()


def test_two_long_names_are_written_at_once(tmp_path: Path) -> None:
    with replacing(tmp_path / f"{LONG}x") as first, replacing(tmp_path / f"{LONG}y") as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert (tmp_path / f"{LONG}x").read_bytes() == b"first"
    assert (tmp_path / f"{LONG}y").read_bytes() == b"second"


def test_content_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, replace = tmp_path / "result.json", os.replace
    synced: dict[int, bytes] = {}

    def renaming(old: Path, new: Path) -> None:
        assert synced == {old.stat().st_ino: b"whole"}, "else a power failure could leave a name without its content"
        replace(old, new)

    monkeypatch.setattr("os.fsync", lambda file: synced.update({os.fstat(file).st_ino: os.pread(file, 100, 0)}))
    monkeypatch.setattr("os.replace", renaming)
    write_bytes(path, b"whole")
    assert path.read_bytes() == b"whole"


def test_a_missing_file_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        read_json(tmp_path / "metrics.json")
    assert (
        str(raised.value) == f"{tmp_path}/metrics.json: expected a JSON file of the pipeline: No such file or directory"
    )
