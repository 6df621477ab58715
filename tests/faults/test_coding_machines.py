"""A coded file decodes in another process, with other batches and threads, and as on a machine with fewer features."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from model_files import rgb_params, write_model
from workspace import ROOT

import spn

pytestmark = pytest.mark.slow

DECODE = """
import sys, numpy, torch, spn
torch.set_num_threads(int(sys.argv[3]))
images = spn.load(sys.argv[1]).decode(open(sys.argv[2], "rb").read(), batch_size=int(sys.argv[4]))
numpy.save(sys.argv[5], images)
print(torch.backends.cpu.get_cpu_capability())
"""

MACHINES = {
    "two threads, other batches": ({}, 2, 3),
    "without vectors": (
        {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
        1,
        256,
    ),
}


@pytest.fixture(scope="module", params=["depth", "raster"])
def coded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """A model, a file, and the images in it: of a softmax by size and depth, and of a joint mixture."""
    folder = tmp_path_factory.mktemp(request.param)
    path = write_model(folder, rgb_params(), request.param)
    model = spn.load(path)
    images = model.sample(10, seed=1)
    (folder / "coded.spn").write_bytes(model.encode(images, images_per_stream=4).content)
    return path, folder / "coded.spn", images


@pytest.mark.parametrize(("variables", "threads", "batch_size"), MACHINES.values(), ids=MACHINES)
def test_a_file_decodes_everywhere(
    variables: dict[str, str],
    threads: int,
    batch_size: int,
    coded: tuple[Path, Path, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, file, images = coded
    for name, value in ({"PYTHONPATH": str(ROOT)} | variables).items():
        monkeypatch.setenv(name, value)
    arguments = [str(model), str(file), str(threads), str(batch_size), str(tmp_path / "images.npy")]
    done = subprocess.run([sys.executable, "-c", DECODE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "images.npy"), images)
    assert (done.stdout.strip() in ("DEFAULT", "NO AVX")) == bool(variables)
