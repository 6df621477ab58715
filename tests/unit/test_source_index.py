"""The index of a source's state: what is in it is not read again, and what is wrong with it does no harm."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from source_files import data_section

from spn.config import InputError
from spn.provenance import source_state
from spn.provenance.sources import files_state

SECTION = data_section(source="arrays", name="made", channels=3, release="made here", size=8, bits=8)
NAMES = ["one.npy", "two.npy", "more/three.npy"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A source of three files."""
    for name in NAMES:
        (tmp_path / "sources/made" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sources/made" / name).write_text(name)
    return tmp_path / "sources"


@pytest.fixture
def read(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Compute the state when files are `age` seconds old, and name those that were read for it."""
    digest, names = hashlib.file_digest, list[str]()

    def noting(file: Any, kind: str) -> Any:
        names.append(os.path.relpath(file.name, root / "made"))
        return digest(file, kind)

    monkeypatch.setattr("hashlib.file_digest", noting)

    def read(age: float = 1000.0) -> list[str]:
        names.clear()
        latest = max(path.stat().st_ctime for path in (root / "made").rglob("*.npy"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("time.time", lambda: latest + age)
            assert source_state(SECTION, root, root.parent / "cache") is not None
        return sorted(names)

    return read


def index_of(root: Path) -> Path:
    (index,) = (root.parent / "cache").iterdir()
    return index


def test_a_file_is_read_when_it_is_new_or_changed_and_never_else(root: Path, read: Callable[..., list[str]]) -> None:
    assert read() == sorted(NAMES)
    assert read() == []
    (root / "made/two.npy").write_text("changed")
    assert read() == ["two.npy"]
    (root / "made/new.npy").write_text("new")
    assert read() == ["new.npy"]
    (root / "made/new.npy").unlink()
    assert read() == []


def test_an_index_of_all_files_is_not_written_again(root: Path, read: Callable[..., list[str]]) -> None:
    read()
    index = index_of(root)
    written = index.stat().st_ino, index.stat().st_mtime_ns
    read()
    assert (index.stat().st_ino, index.stat().st_mtime_ns) == written


@pytest.mark.parametrize(("age", "settled"), [(0.5, False), (1.9, False), (2.1, True), (1e6, True)])
def test_a_file_that_changed_just_now_is_read_once_more(
    read: Callable[..., list[str]], root: Path, age: float, settled: bool
) -> None:
    assert read(age) == sorted(NAMES)
    assert read(age) == ([] if settled else sorted(NAMES))


def test_what_has_settled_is_kept_beside_what_has_not(root: Path, read: Callable[..., list[str]]) -> None:
    latest = max((root / "made" / name).stat().st_ctime for name in NAMES)
    while (root / "made/one.npy").stat().st_ctime <= latest + 0.01:
        (root / "made/one.npy").write_text("changed")
    assert read(1.995) == sorted(NAMES)
    assert read(1.995) == ["one.npy"]
    assert read() == ["one.npy"]
    assert read() == []


def test_roots_have_an_index_each(root: Path, tmp_path: Path, read: Callable[..., list[str]]) -> None:
    read()
    (tmp_path / "other/made").mkdir(parents=True)
    (tmp_path / "other/made/one.npy").write_text("one.npy")
    source_state(SECTION, tmp_path / "other", tmp_path / "cache")
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert len(names) == 2
    assert all(name.startswith("made-") and name.endswith(".json") for name in names)
    assert read() == []


DAMAGES = {
    "empty": "",
    "an empty list": "[]",
    "a number": "3",
    "cut": "{",
    "deep": "[" * 100_000,
    "no text": "\udcff",
    "other content": '["a", "b", "c", "d"]',
}


@pytest.mark.parametrize("line", [0, 1])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_line_is_read_anew(root: Path, read: Callable[..., list[str]], line: int, damage: str) -> None:
    before = source_state(SECTION, root, root.parent / "other")
    read()
    index = index_of(root)
    lines = index.read_text().split("\n")
    lines[line] = damage
    index.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    (root / "made/new.npy").write_text("new")
    assert read() == sorted([*NAMES, "new.npy"])
    (root / "made/new.npy").unlink()
    assert source_state(SECTION, root, root.parent / "cache") == before


def test_without_a_place_for_the_index_all_is_read_again(root: Path, read: Callable[..., list[str]]) -> None:
    (root.parent / "cache").write_text("no folder")
    assert read() == sorted(NAMES)
    assert read() == sorted(NAMES)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.npy")
    with pytest.raises(InputError) as refused:
        files_state([("made/gone.npy", [1, 2, 3, 4], gone)], tmp_path / "index.json")
    assert str(refused.value) == f"{gone}: expected a readable file of the source: No such file or directory"


def test_a_linked_folder_is_not_looked_into(root: Path, tmp_path: Path) -> None:
    before = source_state(SECTION, root, tmp_path / "cache")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/four.npy").write_text("four")
    (root / "made/linked").symlink_to(tmp_path / "elsewhere")
    assert source_state(SECTION, root, tmp_path / "cache") == before
