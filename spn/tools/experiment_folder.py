"""Makes the folder of an experiment, whose Snakefile and dvc.yaml run the workflow beside this package."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from shlex import quote

from ruamel.yaml import YAML

import spn
from spn.config import InputError
from spn.files import write_text, writing
from spn.paths import SOURCES

REPOSITORY = Path(spn.__file__).parents[1]
"""The folder of the workflow's Snakefile, beside this package."""


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder of a temporary name, which is renamed to `folder` at the end, or removed after an error."""
    staging = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with writing(folder):
            staging.mkdir()
        yield staging
        with writing(folder):
            staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_repository() -> None:
    """Raise InputError if the package is installed without the workflow."""
    if not (REPOSITORY / "Snakefile").is_file():
        raise InputError(f"{REPOSITORY}/Snakefile: expected the workflow beside the package spn, got no such file")


def write_workflow(staging: Path, folder: Path, pictures: Path, name: str) -> None:
    """Write everything but params.yaml into `staging`, which will be `folder`; the pictures are linked, not copied."""
    repository, link = _path_from(folder), SOURCES / (name if pictures.is_dir() else f"{name}.zip")
    write_text(
        staging / "Snakefile",
        f'include: "{repository}/Snakefile"  # for params.yaml beside this file\n'
        'workflow.default_target = "reproduce"  # of an included file, Snakemake takes none\n',
    )
    write_text(staging / "dvc.yaml", _dvc_yaml(repository, link))
    ignored = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines(keepends=True)
    # The link is versioned, so that it is also in DVC's temporary workspaces.
    write_text(staging / ".gitignore", "".join(line for line in ignored if str(SOURCES) not in line))
    if not _is_versioned(folder):
        _write_dvc(staging)
    with writing(folder):
        (staging / SOURCES).mkdir()
        (staging / link).symlink_to(pictures)


def _path_from(folder: Path) -> str:
    """Return the path of the repository: relative if the folder lies in it, so that both can be moved together."""
    whole = folder.resolve()
    inside = whole.is_relative_to(REPOSITORY.resolve())
    return os.path.relpath(REPOSITORY.resolve(), whole) if inside else str(REPOSITORY.resolve())


def _dvc_yaml(repository: str, pictures: Path) -> str:
    """Return the repository's dvc.yaml, for an experiment elsewhere."""
    yaml, text = YAML(), StringIO()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 120
    document = yaml.load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))
    stage = document["stages"]["reproduce"]
    stage["cmd"][-1] = f"PYTHONPATH={quote(repository)} {stage['cmd'][-1]}"
    # The code may lie outside what DVC versions here, and DVC follows no link below a folder.
    stage["deps"] = [str(pictures)]
    stage.insert(0, "always_changed", True, comment="the workflow decides, by params.yaml, the code and the pictures")
    yaml.dump(document, text)
    return text.getvalue()


def _is_versioned(folder: Path) -> bool:
    """Tell whether the repository's Git and DVC version the folder."""
    if not folder.resolve().is_relative_to(REPOSITORY.resolve()) or shutil.which("git") is None:
        return False
    # 0: ignored; 128: no repository of Git.
    return subprocess.run(["git", "check-ignore", "--quiet", folder], capture_output=True, check=False).returncode == 1


def _write_dvc(staging: Path) -> None:
    """Make the folder a repository of DVC, without Git."""
    with writing(staging):
        shutil.copytree(REPOSITORY / ".dvc/plots", staging / ".dvc/plots")
        shutil.copyfile(REPOSITORY / ".dvcignore", staging / ".dvcignore")
    config = (REPOSITORY / ".dvc/config").read_text(encoding="utf-8")
    write_text(staging / ".dvc/config", config.replace("[core]\n", "[core]\n    no_scm = true\n"))
