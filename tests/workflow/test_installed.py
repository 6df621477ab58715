"""The package installed from a wheel, with nothing but a model file: no checkout, no params.yaml, no data."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from model_files import rgb_params, write_model
from workspace import ROOT

pytestmark = pytest.mark.slow

THREE_LINES = """
import spn
model = spn.load("model.safetensors")
images = model.sample(16, seed=1)
bits = model.bits_per_dim(images)
print(spn.__file__, images.shape, bits.shape, bits.dtype)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel; what it depends on is that of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels, source = folder / "wheels", folder / "source"  # a copy, because building leaves files there
    shutil.copytree(ROOT / "spn", source / "spn", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    # A path in a .pth file is no site directory, so that the editable install there is not found.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (wheel,) = wheels.iterdir()
    python = folder / "venv/bin/python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    return folder / "venv"


def test_three_lines_work(environment: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "made", rgb_params(), "depth").rename(tmp_path / "model.safetensors")
    run = {"cwd": tmp_path, "env": {"PATH": "/usr/bin:/bin"}, "check": True, "text": True, "capture_output": True}
    done = subprocess.run([environment / "bin/python", "-c", THREE_LINES], **run)  # type: ignore[call-overload]
    place, *rest = done.stdout.split(" ", 1)
    assert Path(place).is_relative_to(environment)
    assert rest == ["(16, 8, 8, 3) (16,) float64\n"]
    assert (Path(place).parent / "py.typed").exists()
    command = [environment / "bin/spn", "sample", "model.safetensors", "-n", "2", "-o", "grid.png"]
    subprocess.run(command, **run)  # type: ignore[call-overload]
    assert (tmp_path / "grid.png").exists()
