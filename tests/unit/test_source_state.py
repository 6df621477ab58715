"""The state of a source: changed by whatever changes a picture, anywhere in it, and by nothing else."""

import io
import os
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from source_files import data_section, random_images

from spn.config import DataSection
from spn.data.preprocess import write_slices
from spn.provenance import source_state

TAKEN = {"size": 8, "bits": 8, "validation": 2, "test": 2}
FOLDER = data_section(source="folder", name="made", channels=3, fit="crop", filter="box", **TAKEN)
ARRAYS = data_section(source="arrays", name="made", channels=3, release="made here", **TAKEN)
MNIST = data_section(source="mnist", name="mnist", bits=8, validation=5)
CIFAR10 = data_section(source="cifar10", name="cifar10", bits=8, validation=5)
IMAGES = random_images(10, 8, 8, 3)


def picture(index: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(IMAGES[index]).save(content, "BMP")  # all of one size
    return content.getvalue()


def folder(root: Path) -> None:
    for place, names in (("made", range(4)), ("made/more/still", range(4, 8))):
        (root / place).mkdir(parents=True)
        for index in names:
            (root / place / f"{index}.bmp").write_bytes(picture(index))


def zipped(root: Path, names: str = "01234567") -> None:
    with zipfile.ZipFile(root / "made.zip", "w") as archive:
        for index, name in enumerate(names):
            archive.writestr(zipfile.ZipInfo(f"more/{name}.bmp"), picture(index))


def arrays(root: Path) -> None:
    (root / "made").mkdir()
    np.save(root / "made" / "train.npy", IMAGES)


def mnist(root: Path) -> None:
    for place in MNIST.places:
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).write_bytes(place.encode())


def cifar10(root: Path) -> None:
    (root / "cifar-10-batches-py").mkdir()
    for name in ("data_batch_1", "test_batch"):
        (root / "cifar-10-batches-py" / name).write_bytes(name.encode())


def in_place(path: Path) -> None:
    """Change one byte of a file, and put its times back."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def exchanged(one: Path, other: Path) -> None:
    """Exchange two files, as renaming does."""
    kept = one.with_name(".kept")
    one.rename(kept)
    other.rename(one)
    kept.rename(other)


NO_TEXT = os.fsdecode(b"made/\xff.bmp")
TOP, DEEP = "made/0.bmp", "made/more/still/4.bmp"
Make = Callable[[Path], object]
CHANGES: dict[str, tuple[DataSection, Make, Make]] = {
    "added": (FOLDER, folder, lambda root: (root / "made/new.bmp").write_bytes(picture(8))),
    "added below": (FOLDER, folder, lambda root: (root / "made/more/still/8.BMP").write_bytes(picture(8))),
    "added in a new folder": (
        FOLDER,
        folder,
        lambda root: shutil.copytree(root / "made/more", root / "made/x"),
    ),
    "removed": (FOLDER, folder, lambda root: (root / TOP).unlink()),
    "removed below": (FOLDER, folder, lambda root: (root / DEEP).unlink()),
    "renamed": (FOLDER, folder, lambda root: (root / TOP).rename(root / "made/9.bmp")),
    "renamed below": (FOLDER, folder, lambda root: (root / DEEP).rename(root / "made/more/still/9.bmp")),
    "moved": (FOLDER, folder, lambda root: (root / DEEP).rename(root / "made/more/4.bmp")),
    "a folder renamed": (FOLDER, folder, lambda root: (root / "made/more").rename(root / "made/other")),
    "exchanged": (FOLDER, folder, lambda root: exchanged(root / TOP, root / DEEP)),
    "in place": (FOLDER, folder, lambda root: in_place(root / TOP)),
    "in place below": (FOLDER, folder, lambda root: in_place(root / DEEP)),
    "a name of no text": (
        FOLDER,
        folder,
        lambda root: (root / os.fsdecode(b"made/\xff.bmp")).write_bytes(picture(8)),
    ),
    "link to another": (FOLDER, folder, lambda root: (root / "made/new.bmp").symlink_to(root / DEEP)),
    "zip: added": (FOLDER, zipped, lambda root: zipped(root, "012345678")),
    "zip: removed": (FOLDER, zipped, lambda root: zipped(root, "0123456")),
    "zip: renamed": (FOLDER, zipped, lambda root: zipped(root, "01234569")),
    "zip: in place": (FOLDER, zipped, lambda root: in_place(root / "made.zip")),
    "zip beside a folder": (FOLDER, folder, zipped),
    "arrays: added": (ARRAYS, arrays, lambda root: np.save(root / "made/train_2.npy", IMAGES)),
    "arrays: removed": (ARRAYS, arrays, lambda root: (root / "made/train.npy").unlink()),
    "arrays: renamed": (ARRAYS, arrays, lambda root: (root / "made/train.npy").rename(root / "made/val.npy")),
    "arrays: in place": (ARRAYS, arrays, lambda root: in_place(root / "made/train.npy")),
    "mnist: in place": (MNIST, mnist, lambda root: in_place(root / MNIST.places[3])),
    "mnist: removed": (MNIST, mnist, lambda root: (root / MNIST.places[0]).unlink()),
    "cifar10: in place": (CIFAR10, cifar10, lambda root: in_place(root / "cifar-10-batches-py/test_batch")),
    "cifar10: the archive beside": (CIFAR10, cifar10, lambda root: (root / CIFAR10.places[0]).touch()),
}


def recopied(root: Path) -> None:
    shutil.copytree(root / "made", root / "again")
    shutil.rmtree(root / "made")
    (root / "again").rename(root / "made")


def touched(root: Path) -> None:
    for path in root.rglob("*"):
        os.utime(path)


def made_read_only(root: Path) -> None:
    for path in root.rglob("*.*"):
        path.chmod(0o444)


def with_other_files(root: Path) -> None:
    (root / "made/.hidden.bmp").write_bytes(picture(8))
    (root / "made/.hidden").mkdir()
    (root / "made/__MACOSX").mkdir()
    for place in (".hidden", "__MACOSX"):
        (root / "made" / place / "8.bmp").write_bytes(picture(8))
    (root / "made/more/notes.txt").write_text("mine")
    (root / "made/empty").mkdir()
    (root / "made/nowhere.bmp").symlink_to("gone")
    (root / "other").mkdir()


SAME: dict[str, tuple[DataSection, Make, Make]] = {
    "nothing": (FOLDER, folder, lambda root: None),
    "touched": (FOLDER, folder, touched),
    "zip: touched": (FOLDER, zipped, touched),
    "arrays: touched": (ARRAYS, arrays, touched),
    "read-only": (FOLDER, folder, made_read_only),
    "other files": (FOLDER, folder, with_other_files),
    "copied again": (FOLDER, folder, recopied),
    "arrays: copied again": (ARRAYS, arrays, recopied),
}


@pytest.mark.parametrize("settled", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("change", [*CHANGES, *SAME])
def test_a_state_tells_of_every_change_and_of_nothing_else(
    change: str, settled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if settled:  # files whose last change is long ago are in the index, and are not read again
        monkeypatch.setattr("spn.provenance.sources.UNSETTLED_SECONDS", -1000.0)
    section, make, edit = (CHANGES | SAME)[change]
    root, cache = tmp_path / "sources", tmp_path / "cache"
    root.mkdir()
    make(root)
    before = source_state(section, root, cache)
    assert before is not None
    assert any(cache.rglob("*.json")) or not settled
    edit(root)
    after = source_state(section, root, cache)
    assert (after == before) == (change in SAME)
    shutil.rmtree(cache, ignore_errors=True)
    assert source_state(section, root, cache) == after  # whatever was in the index


def test_a_damaged_index_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spn.provenance.sources.UNSETTLED_SECONDS", -1000.0)
    folder(tmp_path)
    before = source_state(FOLDER, tmp_path, tmp_path / "cache")
    (index,) = (tmp_path / "cache").glob("*.json")
    for text in ("", "[]", "3", "{", '{"files": {}}', index.read_text().replace("0.bmp", "1.bmp"), "\x00" * 99):
        index.write_text(text)
        assert source_state(FOLDER, tmp_path, tmp_path / "cache") == before


def test_bundled_sources_and_sources_that_are_gone_have_no_state(tmp_path: Path) -> None:
    bundled = data_section(source="digits", name="digits", bits=5, validation=5, test=5)
    assert source_state(bundled, tmp_path, tmp_path) is None
    assert source_state(FOLDER, tmp_path, tmp_path) is None


@pytest.fixture
def _in_ten_seconds() -> Iterator[None]:
    """Fail a test that hangs."""

    def fail(*_: object) -> None:
        raise AssertionError("hung")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_in_ten_seconds")
def test_pipes_are_never_opened(tmp_path: Path) -> None:
    folder(tmp_path)
    before = source_state(FOLDER, tmp_path, tmp_path)
    for name in ("made/pipe.bmp", "made/more/pipe.bmp", "made.zip"):
        os.mkfifo(tmp_path / name)
        assert source_state(FOLDER, tmp_path, tmp_path) == before


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path)
    started = time.monotonic()

    def adding(split: str, images: object) -> None:
        (tmp_path / "made/more" / f"{time.monotonic() - started}.bmp").write_bytes(picture(8))

    monkeypatch.setattr("spn.data.preprocess.DuplicateCount.update", lambda self, *given: adding(*given))
    with pytest.raises(ValueError, match=r"made: the source changed while it was read"):
        write_slices(FOLDER, 1, (0, 8), tmp_path, tmp_path / "out.h5", progress=False)
    assert not (tmp_path / "out.h5").exists()
