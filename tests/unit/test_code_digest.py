"""The digest of code, on a package of a few lines: what is covered, what counts in it, and which commit it is of."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spn.provenance import git_commit
from spn.provenance.code import LOOSE, code_digest, load_code, reach

MODULES = {
    "__init__.py": "STARTED = True",
    "law.py": """
import math
import NAME.deep.sums
from NAME.files import read
from NAME.names import ONE as FIRST

LEAST = 1


def law(x):
    return scale(x) + FIRST + read(x)


def scale(x):
    return NAME.deep.sums.total(x, LEAST)


def unused(x):
    return x
""",
    "names.py": "from NAME import late\n\n\ndef chosen():\n    return late.now\n\n\nONE = chosen()\nTWO = 2",
    "late.py": "print\nnow = 1\nthen = 2",
    "deep/__init__.py": "from NAME.deep.inner import deepest",
    "deep/sums.py": """
from NAME.deep import deepest

unused = int


def total(x, y: unused = 0):
    return deepest(x, y)
""",
    "deep/inner.py": "def deepest(x, y):\n    return total if x else y\n\n\ndef other():\n    return 1",
    "other.py": "",
    "files.py": "from NAME.behind import read",
    "behind.py": "def read(x):\n    return kept(x)\n\n\ndef kept(x):\n    return x",
    "doors.py": "def build(name):\n    return name",
    "toys/ball.py": "def make():\n    return helper()\n\n\ndef helper():\n    return 1\n\n\ndef show():\n    return 2",
    "toys/kite.py": "def other():\n    return 1",
}
"""A package like this one: `law.py:law` needs a part of it, `behind.py` is plumbing, and `build` opens a door."""

OF_LAW = {
    "law.py": {"law", "scale", "LEAST"},
    "names.py": {"ONE", "chosen"},
    "late.py": {"now"},
    "deep/sums.py": {"total"},
    "deep/inner.py": {"deepest"},
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package's folder; its name is another one in every test."""
    root = tmp_path / tmp_path.name
    for place, text in MODULES.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(text.replace("NAME", root.name))
    monkeypatch.setattr("spn.provenance.code.ROOT", root)
    monkeypatch.setattr("spn.provenance.code.PLUMBING", {"behind.py": "is plumbing"})
    doors = {"doors.py:build": ("toys/{toy}.py:make", "toys/{toy}.py:other")}
    monkeypatch.setattr("spn.provenance.code.DOORS", doors)
    monkeypatch.syspath_prepend(tmp_path)
    code_digest.cache_clear()
    yield root
    code_digest.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == root.name]:
        del sys.modules[name]


def digest(*roots: str, **chosen: str) -> str:
    """Compute a digest of the disk as it is now."""
    code_digest.cache_clear()
    return code_digest(*roots, **chosen)


def reached(package: Path, *roots: str, **chosen: str) -> dict[str, set[str]]:
    """Name the definitions that are in a digest, by their modules, and show that a change of any other is not."""
    found: dict[str, set[str]] = {}
    for path, name in reach(*roots, **chosen):
        found.setdefault(path.relative_to(package).as_posix(), set()).add(name)
    before = digest(*roots, **chosen)
    for place, text in MODULES.items():
        for statement in ast.parse(text.replace("NAME", package.name)).body:
            name = getattr(statement, "name", None) or ast.unparse(statement).partition(" = ")[0]
            if isinstance(statement, ast.FunctionDef):
                changed = text.replace(f"def {name}(", f"@str.title\ndef {name}(")
            elif isinstance(statement, ast.Assign):
                changed = re.sub(f"(?m)^{name} = ", f"{name} = 7, ", text)
            else:
                continue
            (package / place).write_text(changed.replace("NAME", package.name))
            assert (digest(*roots, **chosen) != before) == (name in found.get(place, set())), (place, name)
        (package / place).write_text(text.replace("NAME", package.name))
    assert digest(*roots, **chosen) == before
    return found


def test_a_digest_covers_what_is_mentioned_wherever_and_however(package: Path) -> None:
    found = reached(package, "law.py:law")
    assert found.pop("late.py") == {"now", LOOSE}
    assert found == {place: names for place, names in OF_LAW.items() if place != "late.py"}
    assert reached(package, "deep/sums.py") == {"deep/sums.py": {"total", "unused"}, "deep/inner.py": {"deepest"}}
    assert reached(package, "deep/inner.py:other", "names.py:TWO") == {"deep/inner.py": {"other"}, "names.py": {"TWO"}}


def test_plumbing_is_covered_if_it_is_named(package: Path) -> None:
    assert reached(package, "behind.py:read") == {"behind.py": {"read", "kept"}}


def test_a_door_opens_to_what_is_chosen(package: Path) -> None:
    assert reached(package, "doors.py") == {"doors.py": {"build"}}
    assert reached(package, "doors.py", toy="ball") == {"doors.py": {"build"}, "toys/ball.py": {"make", "helper"}}
    assert reached(package, "doors.py", toy="kite") == {"doors.py": {"build"}, "toys/kite.py": {"other"}}


def test_a_definition_counts_wherever_it_stands(package: Path) -> None:
    before = digest("law.py:law")
    inner, other = package / "deep/inner.py", package / "other.py"
    other.write_text(inner.read_text())
    inner.write_text("")
    (package / "deep/__init__.py").write_text(f"from {package.name}.other import deepest")
    assert digest("law.py:law") == before
    other.write_text("def deepest(x, y):\n    return y")
    assert digest("law.py:law") != before


def test_a_module_by_itself_is_all_that_it_defines(package: Path) -> None:
    """As where a name in it is looked up by a variable."""
    name = package.name
    (package / "deep/__init__.py").write_text(f"from {name}.deep.inner import deepest\n\nfirst = 1\nsecond = 2")
    (package / "other.py").write_text(
        f"from {name} import deep, late\n\n\ndef f(x):\n    return getattr(late, x)\n\n\n"
        "def g(x):\n    return getattr(deep, x)"
    )
    late = {(package / "late.py", each) for each in ("now", "then", LOOSE)}
    assert reach("other.py:f") == {(package / "other.py", "f"), *late}
    deep = {(package / "deep/__init__.py", each) for each in ("first", "second")}
    assert reach("other.py:g") == {(package / "other.py", "g"), *deep}
    assert digest("other.py:f") != digest("other.py:g")


def test_a_module_may_be_passed_on_by_another(package: Path) -> None:
    (package / "other.py").write_text(f"from {package.name}.names import late\n\n\ndef f():\n    return late.now")
    late = {(package / "late.py", each) for each in ("now", LOOSE)}
    assert reach("other.py:f") == {(package / "other.py", "f"), *late}


def test_a_module_may_have_another_name_here(package: Path) -> None:
    (package / "other.py").write_text(
        f"import {package.name}.deep.sums as added\n\n\ndef f():\n    return added.total(1, 2)"
    )
    found = {(package / "other.py", "f"), (package / "deep/sums.py", "total"), (package / "deep/inner.py", "deepest")}
    assert reach("other.py:f") == found


def test_what_has_attributes_may_be_a_call(package: Path) -> None:
    (package / "other.py").write_text("def f():\n    return g(h).x[0].y\n\n\ndef g(x):\n    return x\n\n\nh = 1")
    assert reach("other.py:f") == {(package / "other.py", name) for name in "fgh"}


def test_a_choice_between_definitions_counts(package: Path) -> None:
    text = (
        "if now:\n    def g():\n        return 1\nelse:\n    def g():\n        return 2\n\n\ndef f():\n    return g()"
    )
    found = set()
    for version in (text, text.replace("return 1", "return 3"), text.replace("return 2", "return 3")):
        (package / "other.py").write_text(version)
        assert reach("other.py:f") == {(package / "other.py", "f"), (package / "other.py", "g")}
        found.add(digest("other.py:f"))
    assert len(found) == 3


def test_the_same_name_for_something_else_counts(package: Path) -> None:
    """Though both definitions are in the digest before and after."""
    (package / "other.py").write_text(
        f"from {package.name}.late import now, then\n\n\ndef a():\n    return now\n\n\ndef b():\n    return then"
    )
    before = digest("other.py")
    swapped = (package / "other.py").read_text().replace("import now, then", "import now as then, then as now")
    (package / "other.py").write_text(swapped)
    assert digest("other.py") != before


def test_an_import_inside_a_function_hides_what_the_module_has(package: Path) -> None:
    text = f"now = 7\n\n\ndef f():\n    from {package.name}.late import now\n    return now"
    (package / "other.py").write_text(text)
    assert (package / "late.py", "now") in reach("other.py:f")
    assert (package / "other.py", "now") not in reach("other.py:f")


def test_an_import_inside_a_function_is_nothing_to_the_others(package: Path) -> None:
    name = package.name
    (package / "other.py").write_text(
        f"from {name}.late import now\n\n\ndef f():\n    return now\n\n\n"
        f"def g():\n    from {name}.names import TWO as now\n    return now"
    )
    assert (package / "late.py", "now") in reach("other.py:f")
    assert (package / "names.py", "TWO") not in reach("other.py:f")
    assert (package / "names.py", "TWO") in reach("other.py:g")


def test_a_choice_between_imports_counts(package: Path) -> None:
    """Unlike imports for annotations alone."""
    text = f"import sys\n\nif sys.maxsize > 1:\n    from {package.name}.late import now\nelse:\n    now = 7\n\n\n"
    found = set()
    for version in (text, text.replace("> 1", "> 2"), text.replace("now = 7", "now = 8")):
        (package / "other.py").write_text(f"{version}def f():\n    return now")
        found.add(digest("other.py:f"))
    assert len(found) == 3
    checked = f"from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from {package.name}.late import now\n\n\n"
    (package / "other.py").write_text(f"{checked}def f(x: now):\n    return x")
    assert reach("other.py:f") == {(package / "other.py", "f")}


def test_what_is_not_there_is_told(package: Path) -> None:
    (package / "other.py").write_text(f"from {package.name}.late import nothing\n\n\na = nothing")
    with pytest.raises(AssertionError, match=f"{package.name}.late.nothing: expected something of this package"):
        digest("other.py")


SAME = {
    "remarks": ("a = 1\nb = 2", "# what follows\na = 1  # one\n\n\nb = (2)\n"),
    "docstrings": (
        'def f():\n    return 1\n\n\nclass C:\n    x: int = 1\n    "Of x."',
        '"A module."\n\n\ndef f():\n    """Return one."""\n    return 1\n\n\nclass C:\n    "A class."\n    x: int = 1',
    ),
    "prefixes": ("a = 'text'", "a = u'text'"),
    "quotes": ("a = 'text'", 'a = "text"'),
    "annotations": ("def f(a): ...", "def f(a: int): ...", "def f(a) -> int: ..."),
    "imports for annotations": ("def f(a): ...", "if TYPE_CHECKING:\n    import spn\n\n\ndef f(a: spn): ..."),
    "annotated variables": ("class C:\n    a: int = 1", "class C:\n    a: float = 1"),
    "places of definitions": ("a = 1\nb = 2", "b = 2\na = 1"),
}


@pytest.mark.parametrize("texts", SAME.values(), ids=SAME)
def test_what_changes_nothing_does_not_count(package: Path, texts: tuple[str, ...]) -> None:
    assert len(digests_of(package, *texts)) == 1


OTHER = {
    "numbers": ("a = 1", "a = 2", "a = 1.0", "a = True", "a = '1'", "a = None"),
    "names": ("a = b", "a = c", "c = b"),
    "calls": ("print(1)", "print(2)", "print(1, 1)", "print(x=1)", "print(*1)"),
    "order": ("a = 1\na = 2", "a = 2\na = 1"),
    "bare values": ("...", "7", "7.5", "b'7'", "None", ""),
    "operators": ("a = b < c", "a = b > c", "a = b + c", "a = c + b"),
    "arguments": ("def f(a): ...", "def f(b): ...", "def f(*, a): ...", "def f(a=1): ...", "def f(*a): ..."),
    "decorators": ("def f(): ...", "@g\ndef f(): ...", "async def f(): ..."),
    "branches": ("if a: b\nelse: c", "if a: b\nc", "c", "while a: b\nelse: c"),
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
    loaded = {f"{package.name}.law": b"def law():\n    return 1"}
    before = digest("law.py:law")
    monkeypatch.setattr("spn.provenance.code.loaded_source", loaded.get)
    then = digest("law.py:law")
    assert then != before
    (package / "law.py").write_text("def law():\n    return 1")
    loaded.clear()
    assert digest("law.py:law") == then


def test_loading_imports_all_that_is_covered_and_digests_it_anew(package: Path) -> None:
    roots = ("law.py:law", "deep/inner.py:other")
    before = code_digest(*roots, toy="ball")
    inner = package / "deep/inner.py"
    inner.write_text(inner.read_text().replace("return 1", "return 2"))
    assert code_digest(*roots, toy="ball") == before
    load_code(*roots, "doors.py", toy="ball")
    dotted = {f"{package.name}.{place.removesuffix('.py').replace('/', '.')}" for place in OF_LAW}
    assert dotted | {f"{package.name}.toys.ball"} <= sys.modules.keys()
    assert not {f"{package.name}.other", f"{package.name}.toys.kite"} & sys.modules.keys()
    assert code_digest(*roots, toy="ball") != before


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
