"""A killed preprocessing goes on from the pictures that it had decoded, to the same file, and from no others."""

import errno
import fcntl
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from source_files import data_section, random_images

from spn.config import DataSection, InputError
from spn.data import seal
from spn.data.preprocess import write_slices
from spn.data.sources import pictures, spool
from spn.data.sources.picture import decode_picture
from spn.data.sources.spool import Kept, Spool
from spn.data.writing import SliceWriter
from spn.files import WriteError
from spn.pipeline.preprocess import keeping

COUNT, NOTED = 60, 10
"""Pictures, and how many are decoded between two notes: the clock of these tests ticks at each."""
BAD = 7

Prepare = Callable[[pytest.MonkeyPatch], None]


class Killed(BaseException):
    """The process ends here."""


def section(**keys: object) -> DataSection:
    given = {"source": "folder", "name": "pictures", "bits": 8, "size": 8, "channels": 3, "fit": "crop"}
    return data_section(**given | {"filter": "box", "validation": 20, "test": 10, "unreadable": "skip"} | keys)


def recipe_of(of: DataSection) -> dict[str, Any]:
    return {"scale_factor": 2, "cuts": [0, 3, 8], "data": of.model_dump(mode="json"), "code_digest": "of the code"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Sources with one picture that cannot be read, among those before the first note."""
    (tmp_path / "pictures").mkdir()
    for number, levels in enumerate(random_images(COUNT, 8, 8, 3)):
        Image.fromarray(levels).save(tmp_path / "pictures" / f"{number:02}.png")
    (tmp_path / "pictures" / f"{BAD:02}.png").write_bytes(b"no picture")
    return tmp_path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each look at the clock take one second, notes be taken every ten, and pictures be decoded one by one."""
    monkeypatch.setattr(pictures, "TOGETHER", 1)
    now = iter(range(1, 10**6))
    monkeypatch.setattr(spool, "time", SimpleNamespace(monotonic=lambda: float(next(now))))
    monkeypatch.setattr(spool, "NOTE_SECONDS", float(NOTED))


def run(root: Path, monkeypatch: pytest.MonkeyPatch, of: DataSection | None = None, killed: int = COUNT) -> int:
    """Preprocess, and fail before the picture numbered `killed`; return how many were decoded."""
    decoded = 0

    def decode(content: bytes, of: Any) -> np.ndarray:
        nonlocal decoded
        if decoded == killed:
            raise Killed
        decoded += 1
        return decode_picture(content, of)

    of = of or section()
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "decode_picture", decode)
        with keeping(root / "runs", recipe_of(of)) as kept:
            write_slices(of, 2, (0, 3, 8), root, root / "S2.h5", progress=False, recipe=recipe_of(of), kept=kept)
    return decoded


def kill(root: Path, monkeypatch: pytest.MonkeyPatch, killed: int = COUNT, prepare: Prepare | None = None) -> None:
    """Preprocess and be killed, so that nothing is cleared away; what follows the note is torn."""
    with monkeypatch.context() as patch:
        patch.setattr(Kept, "remove", lambda kept: None)
        if prepare is not None:
            prepare(patch)
        with pytest.raises(Killed):
            run(root, monkeypatch, killed=killed)
    assert not (root / "S2.h5").exists()
    with kept_file(root).open("ab") as file:
        file.write(b"torn")


def kept_file(root: Path) -> Path:
    (path,) = (root / "runs").glob("pictures-S2-*.pictures")
    return path


def noted(root: Path) -> int:
    path = kept_file(root).with_suffix(".json")
    return int(json.loads(path.read_text())["done"]) if path.exists() else 0


def whole(root: Path, monkeypatch: pytest.MonkeyPatch, of: DataSection | None = None) -> bytes:
    """Return the file of a run that was never interrupted."""
    of = of or section()
    write_slices(of, 2, (0, 3, 8), root, root / "whole.h5", progress=False, recipe=recipe_of(of))
    return (root / "whole.h5").read_bytes()


def assert_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch, killed: int, prepare: Prepare | None = None) -> int:
    """Kill a run, and compare the file of the next with that of an uninterrupted one; return how many it decoded."""
    kill(root, monkeypatch, killed, prepare)
    kept = noted(root)
    decoded = run(root, monkeypatch)
    assert decoded == COUNT - kept, f"decoded {decoded} again"
    assert (root / "S2.h5").read_bytes() == whole(root, monkeypatch)
    assert [path.suffix for path in (root / "runs").iterdir()] == [".lock"]
    return decoded


def in_split(split: str) -> Prepare:
    """Be killed when the first images of a split are written."""
    append = SliceWriter.append

    def killing(writer: SliceWriter, of: str, *given: Any) -> None:
        if of == split:
            raise Killed
        append(writer, of, *given)  # type: ignore[arg-type]

    return lambda patch: patch.setattr(SliceWriter, "append", killing)


def in_seal(patch: pytest.MonkeyPatch) -> None:
    def killing(*given: object) -> None:
        raise Killed

    patch.setattr(seal, "write_seal", killing)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("killed", "again"), [(4, COUNT), (35, COUNT - 30), (COUNT - 1, COUNT - 50)])
def test_killed_while_it_decodes(root: Path, monkeypatch: pytest.MonkeyPatch, killed: int, again: int) -> None:
    assert assert_goes_on(root, monkeypatch, killed) == again


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("prepare", [in_split("train"), in_split("validation"), in_seal])
def test_killed_while_it_writes(root: Path, monkeypatch: pytest.MonkeyPatch, prepare: Prepare) -> None:
    assert assert_goes_on(root, monkeypatch, COUNT, prepare) == 0


@pytest.mark.usefixtures("clock")
def test_killed_again_and_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kept in (10, 20, 30):
        kill(root, monkeypatch, killed=15)
        assert noted(root) == kept
    assert_goes_on(root, monkeypatch, killed=1)


@pytest.mark.usefixtures("clock")
def test_a_damaged_file_is_not_taken_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for damage in ("levels", "end", "note", "no note", "no pictures"):
        kill(root, monkeypatch, killed=35)
        path = kept_file(root)
        content, note = bytearray(path.read_bytes()), path.with_suffix(".json")
        content[1000] ^= damage == "levels"
        path.write_bytes(content[:1000] if damage == "end" else content)
        if damage == "note":
            note.write_text(note.read_text().replace('"done": 30', '"done": 29'))
        elif damage == "no note":
            note.unlink()
        elif damage == "no pictures":
            path.unlink()
        assert run(root, monkeypatch) == COUNT
        assert (root / "S2.h5").read_bytes() == whole(root, monkeypatch)
        (root / "S2.h5").unlink()


def assert_leaves_a_changed_source(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the pictures that were noted is another."""
    kill(root, monkeypatch, killed=35)
    Image.fromarray(random_images(1, 8, 8, 3, seed=9)[0]).save(root / "pictures" / "03.png")
    run(root, monkeypatch)
    assert (root / "S2.h5").read_bytes() == whole(root, monkeypatch)


@pytest.mark.usefixtures("clock")
def test_pictures_of_a_changed_source_are_not_taken_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_leaves_a_changed_source(root, monkeypatch)


def give_to(root: Path, of: DataSection) -> None:
    """Put what is kept where the pictures of another section belong."""
    with keeping(root / "elsewhere", recipe_of(of)) as wanted:
        pass
    for path in (kept_file(root), kept_file(root).with_suffix(".json")):
        path.rename(root / "runs" / wanted.path.with_suffix(path.suffix).name)


def assert_leaves_another_recipe(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other recipe resizes what the first crops; both have as many bytes."""
    for number, levels in enumerate(random_images(COUNT, 12, 12, 3)):
        Image.fromarray(levels).save(root / "pictures" / f"{number:02}.png")
    other = section(fit="resize")
    kill(root, monkeypatch, killed=35)
    give_to(root, other)
    run(root, monkeypatch, other)
    assert (root / "S2.h5").read_bytes() == whole(root, monkeypatch, other)


@pytest.mark.usefixtures("clock")
def test_pictures_of_another_recipe_are_not_taken_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_leaves_another_recipe(root, monkeypatch)


def test_recipes_keep_their_pictures_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(section())
    others = [recipe_of(section(size=4)), recipe | {"code_digest": "of other code"}, recipe | {"scale_factor": 4}]
    names = set()
    for each in (recipe, recipe_of(section(unreadable="refuse")), *others):
        with keeping(tmp_path, each) as kept:
            names.add(kept.path.name)
    assert len(names) == 1 + len(others)
    monkeypatch.setattr("PIL.__version__", "another")  # which may decode otherwise
    with keeping(tmp_path, recipe) as kept:
        assert kept.path.name not in names


@pytest.mark.usefixtures("clock")
def test_whoever_then_skips_what_is_unreadable_need_not_decode_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"got 1 of 60 that are not \(data\.unreadable: skip leaves them out\)"):
        run(root, monkeypatch, section(unreadable="refuse"))
    assert run(root, monkeypatch) == 0
    assert (root / "S2.h5").read_bytes() == whole(root, monkeypatch)


def test_a_short_run_keeps_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        run(root, monkeypatch, killed=35)
    assert [path.suffix for path in (root / "runs").iterdir()] == [".lock"]


@pytest.mark.usefixtures("clock")
def test_a_full_disk_is_told_and_what_was_noted_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = Spool.append

    def full(self: Spool, *given: Any) -> None:
        if self.done == 35:
            monkeypatch.setattr(self, "_file", SimpleNamespace(write=refuse))
        append(self, *given)

    def refuse(content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Spool, "append", full)
        with pytest.raises(WriteError, match=r"\.pictures: could not be written: No space left on device$"):
            run(root, monkeypatch)
    assert noted(root) == 30
    assert run(root, monkeypatch) == COUNT - 30
    assert (root / "S2.h5").read_bytes() == whole(root, monkeypatch)


def test_a_second_process_waits(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("spn.lock.POLL_SECONDS", 0.01)
    with keeping(root / "runs", recipe_of(section())) as kept:
        pass
    order: list[str] = []

    def second() -> None:
        run(root, monkeypatch)
        order.append("second")

    with (root / "runs" / f".{kept.path.stem}.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert capsys.readouterr().err.startswith("pictures: waiting for another process that preprocesses it now\n")


# Planted bugs: the checks above must catch each.

take_up, read_note = Spool._take_up, spool._read_note


def skip_one(self: Spool, kept: Kept) -> None:
    take_up(self, kept)
    if self.done:
        self._file.write(bytes(self._record.itemsize))
        self.done += 1


def repeat_one(self: Spool, kept: Kept) -> None:
    take_up(self, kept)
    if self.done:
        self.done -= 1


def trust_the_tail(self: Spool, kept: Kept) -> None:
    content = kept.path.read_bytes()
    take_up(self, kept)
    self._file.write(content[self._file.tell() :])


def forget_the_bad(self: Spool, kept: Kept) -> None:
    take_up(self, kept)
    self.bad = {}


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("bug", [skip_one, repeat_one, trust_the_tail, forget_the_bad])
def test_planted_bugs_are_caught(root: Path, monkeypatch: pytest.MonkeyPatch, bug: Any) -> None:
    monkeypatch.setattr(Spool, "_take_up", bug)
    with pytest.raises((AssertionError, ValueError)):
        assert_goes_on(root, monkeypatch, killed=35)


def trust_any_origin(self: Spool, kept: Kept) -> None:
    note = read_note(kept.note)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "_read_note", lambda path: note and note | {"origin": kept.origin})
        take_up(self, kept)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("check", [assert_leaves_another_recipe, assert_leaves_a_changed_source])
def test_a_planted_bug_that_trusts_any_note_is_caught(root: Path, monkeypatch: pytest.MonkeyPatch, check: Any) -> None:
    monkeypatch.setattr(Spool, "_take_up", trust_any_origin)
    with pytest.raises(AssertionError):
        check(root, monkeypatch)
