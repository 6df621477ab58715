"""The digest of code, on a package of a few lines: what is covered, what counts in it, and which commit it is of."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spn.provenance import git_commit
from spn.provenance.code import code_digest, load_code

MODULES = {
    "__init__.py": "STARTED = True",
    "law.py": "import math\nimport NAME.deep.sums\nfrom NAME.files import read\nfrom NAME.names import ONE",
    "names.py": "from NAME import more\nONE = 1",
    "more.py": "def late():\n    from NAME.late import now\n    return now",
    "late.py": "import NAME.law\nnow = 1",
    "deep/__init__.py": "",
    "deep/sums.py": "from NAME.deep import inner",
    "deep/inner.py": "",
    "deep/other.py": "",
    "other.py": "",
    "files.py": "from NAME.behind import read",
    "behind.py": "read = open",
    "cli/__init__.py": "",
    "cli/verbs.py": "from NAME.other import *\n\n\ndef run():\n    return 1\n\n\ndef walk():\n    return 2",
}
"""A package like this one: `law.py` needs most of it, and `files.py` and `cli` are no science."""

OF_LAW = {"law.py", "names.py", "more.py", "late.py", "deep/__init__.py", "deep/sums.py", "deep/inner.py"}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package's folder; its name is another one in every test."""
    root = tmp_path / tmp_path.name
    for place, text in MODULES.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(text.replace("NAME", root.name))
    monkeypatch.setattr("spn.provenance.code.ROOT", root)
    monkeypatch.syspath_prepend(tmp_path)
    code_digest.cache_clear()
    yield root
    code_digest.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == root.name]:
        del sys.modules[name]


def digest(*roots: str) -> str:
    """Compute a digest of the disk as it is now."""
    code_digest.cache_clear()
    return code_digest(*roots)


def decisive(package: Path, *roots: str) -> set[str]:
    """Name the modules of which a change changes the digest."""
    before, found = digest(*roots), set()
    for place in MODULES:
        text = (package / place).read_text()
        (package / place).write_text(f"{text}\nCHANGED = True\n")
        if digest(*roots) != before:
            found.add(place)
        (package / place).write_text(text)
    assert digest(*roots) == before
    return found


def test_a_digest_covers_what_is_imported_wherever_and_however(package: Path) -> None:
    assert decisive(package, "law.py") == OF_LAW
    assert decisive(package, "deep") == {"deep/__init__.py"}
    assert decisive(package, "other.py", "deep/inner.py") == {"other.py", "deep/inner.py", "deep/__init__.py"}


def test_what_is_no_science_is_covered_where_it_is_named(package: Path) -> None:
    assert decisive(package, "files.py") == {"files.py", "behind.py"}
    assert decisive(package, "law.py", "files.py") == OF_LAW | {"files.py", "behind.py"}
    assert decisive(package, "cli/verbs.py") == {"cli/verbs.py", "other.py"}


def test_a_function_is_covered_without_its_module(package: Path) -> None:
    assert decisive(package, "cli/verbs.py:run") == set()
    run, walk = digest("cli/verbs.py:run"), digest("cli/verbs.py:walk")
    both = digest("law.py", "cli/verbs.py:run")
    assert len({run, walk, both, digest("law.py")}) == 4
    verbs = package / "cli/verbs.py"
    verbs.write_text(verbs.read_text().replace("return 1", "return 3"))
    assert digest("cli/verbs.py:run") != run
    assert digest("law.py", "cli/verbs.py:run") != both
    assert digest("cli/verbs.py:walk") == walk


def test_a_renamed_module_is_another(package: Path) -> None:
    before = digest("other.py")
    (package / "other.py").rename(package / "renamed.py")
    assert digest("renamed.py") != before


SAME = {
    "remarks": ("a = 1\nb = 2", "# what follows\na = 1  # one\n\n\nb = (2)\n"),
    "docstrings": (
        'def f():\n    return 1\n\n\nclass C:\n    x: int = 1\n    "Of x."',
        '"A module."\n\n\ndef f():\n    """Return one."""\n    return 1\n\n\nclass C:\n    "A class."\n    x: int = 1',
    ),
    "prefixes": ("a = 'text'", "a = u'text'"),
    "quotes": ("a = 'text'", 'a = "text"'),
}


@pytest.mark.parametrize("texts", SAME.values(), ids=SAME)
def test_what_python_does_not_see_does_not_count(package: Path, texts: tuple[str, str]) -> None:
    assert len(digests_of(package, *texts)) == 1


OTHER = {
    "numbers": ("a = 1", "a = 2", "a = 1.0", "a = True", "a = '1'", "a = None"),
    "names": ("a = b", "a = c", "c = b"),
    "calls": ("print(1)", "print(2)", "print(1, 1)", "print(x=1)", "print(*1)"),
    "order": ("a = 1\nb = 2", "b = 2\na = 1"),
    "bare values": ("...", "7", "7.5", "b'7'", "None", ""),
    "operators": ("a = b < c", "a = b > c", "a = b + c", "a = c + b"),
    "arguments": ("def f(a): ...", "def f(*, a): ...", "def f(a=1): ...", "def f(*a): ...", "def f(a: int): ..."),
    "decorators": ("def f(): ...", "@g\ndef f(): ...", "async def f(): ..."),
    "branches": ("if a: b\nelse: c", "if a: b\nc", "while a: b\nelse: c"),
}


@pytest.mark.parametrize("texts", OTHER.values(), ids=OTHER)
def test_what_python_does_counts(package: Path, texts: tuple[str, ...]) -> None:
    assert len(digests_of(package, *texts)) == len(texts)


def digests_of(package: Path, *texts: str) -> set[str]:
    found = set()
    for text in texts:
        (package / "other.py").write_text(text)
        found.add(digest("other.py"))
    return found


def test_what_is_loaded_is_covered_as_it_was_loaded(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = {f"{package.name}.law": b"a = 1", f"{package.name}.deep": b"b = 1"}
    monkeypatch.setattr("spn.provenance.code.loaded_source", loaded.get)
    assert decisive(package, "law.py", "deep/inner.py") == {"deep/inner.py"}
    (package / "law.py").write_text("a = 1")
    (package / "deep/__init__.py").write_text("b = 1")
    before = digest("law.py", "deep/inner.py")
    loaded.clear()
    assert digest("law.py", "deep/inner.py") == before


def test_loading_imports_all_that_is_covered_and_digests_it_anew(package: Path) -> None:
    before = code_digest("law.py", "deep/other.py", "cli/verbs.py:run")
    (package / "deep/other.py").write_text("CHANGED = True")
    assert code_digest("law.py", "deep/other.py", "cli/verbs.py:run") == before
    load_code("law.py", "deep/other.py", "cli/verbs.py:run")
    dotted = {f"{package.name}.{place.removesuffix('.py').replace('/', '.')}" for place in OF_LAW | {"deep/other.py"}}
    assert {name.removesuffix(".__init__") for name in dotted} <= sys.modules.keys()
    assert not {f"{package.name}.other", f"{package.name}.cli.verbs"} & sys.modules.keys()
    assert code_digest("law.py", "deep/other.py", "cli/verbs.py:run") != before


def git(folder: Path, *command: str) -> str:
    who = (
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@example.org",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "tag.gpgsign=false",
    )
    done = subprocess.run(["git", "-C", folder, *who, *command], check=True, text=True, capture_output=True)
    return done.stdout.strip()


def test_the_commit_is_told_in_full_and_whether_it_was_changed(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("a = 1")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "--message", "Begin")
    git(tmp_path, "tag", "--annotate", "v1", "--message", "First")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert git_commit(tmp_path) == commit
    (tmp_path / "code.py").write_text("a = 2")
    assert git_commit(tmp_path) == f"{commit}-dirty"


def test_outside_a_repository_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))  # and without git there is none to be asked
    assert git_commit(tmp_path) is None
    assert capfd.readouterr() == ("", "")
