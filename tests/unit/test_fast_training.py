"""What is done for speed and memory alone changes no result."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from experiment import tiny_params, write_params
from torch import Tensor

from spn import machine
from spn.config import InputError, Params, load_params
from spn.data import resident
from spn.data.hdf5 import SliceFile
from spn.data.layout import Split
from spn.data.preprocess import write_slices
from spn.data.resident import ResidentSlices
from spn.evaluation.evaluate import stage_nats
from spn.likelihood import Categorical, Chunked, Law, chunked
from spn.machine import FLOAT32_ERROR, onednn_matmul
from spn.models import build_model
from spn.pipeline.place import choose_device
from spn.pipeline.train import train
from spn.provenance import stage_recipe
from spn.stages import Stage
from spn.training.trainer import Trainer

CPU = torch.device("cpu")
SHAPE = (2, 3, 4, 3)
LEVELS = 5


# Counts the pages that two rounds of 256 MiB, in blocks of 4, take from the system after the first rounds.
PAGES = """
import resource, sys, torch
from spn.pipeline.place import choose_device
if sys.argv[1] == "kept":
    choose_device("cpu", 1)
def use():
    blocks = [torch.ones(2**20) for _ in range(64)]
use(), use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use(), use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


COMPILED = """
import sys
from pathlib import Path
import torch
from spn.config import load_params
from spn.data.hdf5 import SliceFile
from spn.provenance import stage_recipe
from spn.training.trainer import Trainer

params, file = load_params(Path(sys.argv[1])), SliceFile(Path(sys.argv[2]))
steps = []
for compiled in (False, True):
    torch.manual_seed(1)
    recipe = stage_recipe(params, "raster", file.digest)
    trainer = Trainer(params, "raster", file, recipe, torch.device("cpu"), compiled)
    steps.append([torch.stack([value.double() for value in trainer.train_step()[:2]]) for _ in range(3)])
for plain, compiled in zip(*steps):
    torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=0)
assert torch._dynamo.utils.counters["inductor"], "nothing was compiled"
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Params, Path]:
    folder = tmp_path_factory.mktemp("data")
    params = load_params(write_params(folder, tiny_params()))
    write_slices(params.data, 2, (0, 2, 5), folder / "sources", folder / "low.h5", progress=False)
    write_slices(params.data, 1, (0, 5), folder / "sources", folder / "raster.h5", progress=False)
    return params, folder


@pytest.fixture
def five_pixels_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "PIXELS", {"cpu": 5})


def trainer(
    experiment: tuple[Params, Path], stage: str, device: torch.device = CPU, recompute: bool = False
) -> Trainer:
    params, folder = experiment
    data = SliceFile(folder / f"{stage}.h5")
    return Trainer(params, stage, data, stage_recipe(params, stage, data.digest), device, recompute=recompute)


# The chunked law.


class Problem:
    """Features of pixels, and a head that turns them into laws of three channels."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        draw: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
        self.features = torch.randn(*SHAPE[:3], 7, **draw).requires_grad_()
        self.weight = torch.randn(7, 3 * LEVELS, **draw).requires_grad_()
        self.levels = torch.randint(LEVELS, SHAPE, generator=generator)
        self.uniforms = torch.rand(SHAPE, **draw)

    def head(self, features: Tensor) -> Categorical:
        return Categorical((features @ self.weight).unflatten(-1, (3, LEVELS)))

    def laws(self, recompute: bool = False) -> tuple[Law, Law]:
        return Chunked(self.features, self.head, recompute), self.head(self.features)


@pytest.mark.usefixtures("five_pixels_at_a_time")
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_chunked_law_is_the_law_of_all_its_pixels(temperature: float) -> None:
    problem = Problem()
    actual, expected = (law.tempered(temperature) for law in problem.laws())
    exactly: dict[str, Any] = {"atol": 1e-12, "rtol": 0.0}
    torch.testing.assert_close(actual.log_prob(problem.levels), expected.log_prob(problem.levels), **exactly)
    torch.testing.assert_close(actual.probs(), expected.probs(), **exactly)
    torch.testing.assert_close(actual.select(1, 3, 2).probs(), expected.select(1, 3, 2).probs(), **exactly)
    assert torch.equal(actual.quantile(problem.uniforms), expected.quantile(problem.uniforms))


@pytest.mark.usefixtures("five_pixels_at_a_time")
@pytest.mark.parametrize("recompute", [False, True])
def test_a_chunked_law_has_the_gradients_of_all_its_pixels(recompute: bool) -> None:
    problem = Problem()
    of_head = []
    for law in problem.laws(recompute):
        loss = (law.log_prob(problem.levels) * problem.uniforms).sum()
        of_head.append(torch.autograd.grad(loss, (problem.features, problem.weight)))
    for actual, expected in zip(*of_head, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.usefixtures("five_pixels_at_a_time")
def test_a_chunked_law_made_again_keeps_no_logits() -> None:
    problem = Problem()
    chunks, whole = problem.laws(recompute=True)
    logits = 8 * problem.levels.numel() * LEVELS
    for law in (chunks, chunks.tempered(0.7)):
        assert _kept(lambda law=law: law.log_prob(problem.levels)) < logits
    assert _kept(lambda: whole.log_prob(problem.levels)) > logits


def _kept(run: Callable[[], object]) -> int:
    """Count the bytes of different tensors that are kept for the way back."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(kept.values())


# Training.


@pytest.mark.parametrize("stage", ["raster", "low"])
def test_activations_made_again_change_no_step(experiment: tuple[Params, Path], stage: str) -> None:
    # With dropout, whose draws must be those of the first time.
    plain, recomputing = trainer(experiment, stage), trainer(experiment, stage, recompute=True)
    for _ in range(3):
        for expected, actual in zip(plain.train_step(), recomputing.train_step(), strict=True):
            assert torch.equal(expected, actual)
    for expected, actual in zip(plain.model.parameters(), recomputing.model.parameters(), strict=True):
        assert torch.equal(expected, actual)


@pytest.mark.parametrize("stage", ["raster", "low"])
def test_activations_made_again_are_not_kept(experiment: tuple[Params, Path], stage: str) -> None:
    def kept(recompute: bool) -> int:
        run = trainer(experiment, stage, recompute=recompute)
        slices = run.data.slices("train", torch.arange(8))
        position = run.stage.positions(run.stage.targets[-1], 8)
        return _kept(lambda: run.stage.nats(run.model, slices, position))

    assert kept(recompute=True) < 0.6 * kept(recompute=False)


@pytest.mark.parametrize("stage", ["raster", "low"])
@pytest.mark.parametrize("micro_batch", [1, 3, 100])
def test_parts_of_a_batch_add_up_to_its_step(
    experiment: tuple[Params, Path], monkeypatch: pytest.MonkeyPatch, stage: str, micro_batch: int
) -> None:
    params, folder = experiment
    section = params.stages[stage]
    still = section.model.model_copy(update={"dropout": 0.0})
    stages = params.stages | {stage: section.model_copy(update={"model": still})}
    whole, parts = (
        Trainer(
            params.model_copy(update={"stages": stages}),
            stage,
            SliceFile(folder / f"{stage}.h5"),
            {},
            CPU,
            micro_batch=size,
        )
        for size in (None, micro_batch)
    )
    sizes, nats = list[int](), parts._nats

    def noting(slices: Tensor, *others: Any) -> Tensor:
        sizes.append(len(slices))
        return nats(slices, *others)

    monkeypatch.setattr(parts, "_nats", noting)
    for _ in range(3):
        for expected, actual in zip(whole.train_step(), parts.train_step(), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    for expected, actual in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)
    assert max(sizes) <= micro_batch
    assert sum(sizes) == 3 * section.training.batch_size


@pytest.mark.skipif(not torch.cuda.is_available(), reason="waiting for a GPU needs one")
def test_a_step_never_waits_for_the_gpu(experiment: tuple[Params, Path]) -> None:
    run = trainer(experiment, "low", torch.device("cuda"))
    run.train_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Matrix products.


@pytest.fixture
def setting() -> Iterator[Any]:
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    former = settings.fp32_precision
    yield settings
    settings.fp32_precision = former


@pytest.mark.parametrize("former", ["none", "ieee"])
def test_onednn_matmul_is_float32_and_leave_the_setting_as_it_was(setting: Any, former: str) -> None:
    setting.fp32_precision = former
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(300, 300, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    with onednn_matmul(CPU) as line:
        assert ((left @ right - exact).abs().max() / exact.abs().max()).item() < FLOAT32_ERROR
        assert line.startswith("float32 products ")
        assert line.splitlines() == [line]
    assert setting.fp32_precision == former


def test_onednn_matmul_leaves_the_setting_as_it_was_after_an_error(setting: Any) -> None:
    former = setting.fp32_precision
    with pytest.raises(KeyError), onednn_matmul(CPU):
        raise KeyError
    assert setting.fp32_precision == former


# Data.


@pytest.mark.parametrize("free", [0, 1 << 40])
@pytest.mark.parametrize("stage", ["raster", "low"])
def test_slices_are_those_of_the_file_whether_they_fit_or_not(
    experiment: tuple[Params, Path], monkeypatch: pytest.MonkeyPatch, stage: str, free: int
) -> None:
    monkeypatch.setattr(resident, "free_bytes", lambda device: free)
    file = SliceFile(experiment[1] / f"{stage}.h5")
    slices = ResidentSlices(file, CPU)
    cases: list[tuple[Split, list[int]]] = [("train", [3, 99, 3]), ("validation", [0]), ("train", list(range(100)))]
    for split, indices in cases:
        assert torch.equal(slices.slices(split, torch.tensor(indices)), file.slices(split, torch.tensor(indices)))
    assert slices.num_images("test") == file.num_images("test")


def test_slices_that_fit_are_read_once(experiment: tuple[Params, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    file = SliceFile(experiment[1] / "low.h5")
    sound = file.levels

    def levels(split: Split, indices: Tensor) -> Tensor:
        reads.append(len(indices))
        return sound(split, indices)

    monkeypatch.setattr(file, "levels", levels)
    slices = ResidentSlices(file, CPU)
    for _ in range(3):
        slices.slices("train", torch.tensor([1, 2]))
    assert reads == [100]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_is_used_again() -> None:
    command = [sys.executable, "-c", PAGES]
    given_back, kept = (int(subprocess.check_output([*command, how])) for how in ("given back", "kept"))
    assert kept < given_back / 10


def test_free_memory_is_what_the_machine_has_free_and_the_job_may_still_use(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"SC_AVPHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr("os.sysconf", sizes.__getitem__)
    monkeypatch.setattr(machine, "_left_in_groups", lambda groups, root: [])
    assert machine.free_bytes(CPU) == 4_096_000
    monkeypatch.setattr(machine, "_left_in_groups", lambda groups, root: [5_000_000, 3_000])
    assert machine.free_bytes(CPU) == 3_000
    monkeypatch.undo()
    # By the kernel's own words, in kB; what other processes do meanwhile may take some of it or give some back.
    (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemFree:"))
    assert machine.free_bytes(CPU) <= 1.5 * 1024 * int(line.split()[1])


def test_a_job_may_use_what_the_tightest_of_its_groups_leaves(tmp_path: Path) -> None:
    (tmp_path / "groups").write_text("0::/job/step\n")
    for folder, limit, used in (("job", "5000", 2000), ("job/step", "max", 500), ("", "9000", 2500)):
        (tmp_path / "root" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / folder / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "root" / folder / "memory.current").write_text(f"{used}\n")
    assert machine._left_in_groups(tmp_path / "groups", tmp_path / "root") == [3000, 6500]
    (tmp_path / "root" / "job" / "memory.current").write_text("6000\n")
    assert machine._left_in_groups(tmp_path / "groups", tmp_path / "root") == [0, 6500]
    assert machine._left_in_groups(tmp_path / "nowhere", tmp_path / "root") == []


# Evaluation.


@pytest.mark.parametrize("stage", ["raster", "low"])
def test_exact_nats_do_not_depend_on_the_batches(experiment: tuple[Params, Path], stage: str) -> None:
    params, folder = experiment
    plan = Stage(params.stage_plans[stage], params.data.shape)
    torch.manual_seed(0)
    model = build_model(params.stages[stage].model, plan.shape).double().eval()
    file = SliceFile(folder / f"{stage}.h5")
    slices = file.slices("test", torch.arange(10))
    with torch.inference_mode():
        expected = sum(plan.nats(model, slices, plan.positions(target, 10)) for target in plan.targets)
    for batch_size in (1, 3, 4, 128):
        actual = stage_nats(plan, model, file, "test", CPU, batch_size)
        torch.testing.assert_close(torch.from_numpy(actual), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("rank", ["0", "3"])
@pytest.mark.parametrize("more", ["", "\nCUDA kernel errors might be reported later.\n", ". Please check your driver."])
def test_a_gpu_that_is_not_there_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, rank: str, more: str) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(torch, "empty", Mock(side_effect=RuntimeError(f"invalid device ordinal{more}")))
    monkeypatch.setattr(torch.cuda, "set_device", Mock(side_effect=AttributeError))
    line = f"^--device: expected a device of this machine, got cuda:{rank}: invalid device ordinal$"
    with pytest.raises(InputError, match=line):
        choose_device("cuda", 1)


@pytest.mark.slow
def test_a_compiled_network_takes_the_same_steps(experiment: tuple[Params, Path], tmp_path: Path) -> None:
    """In a process where types are not checked; with torch's real compiler."""
    _, folder = experiment
    raw = tiny_params()
    raw["stages"]["raster"]["model"] = {"family": "gated_pixelcnn", "layers": 1, "width": 6}
    path = write_params(tmp_path, raw)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, map(str, sys.path)))}
    command = [sys.executable, "-c", COMPILED, str(path), str(folder / "raster.h5")]
    subprocess.run(command, env=environment, check=True)


def test_a_compiler_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params(write_params(tmp_path, tiny_params()))
    monkeypatch.setenv("CXX", "no-such-compiler")
    line = r"^--compile: expected a C\+\+ compiler, found no no-such-compiler \(the variable CXX names another\)$"
    with pytest.raises(InputError, match=line):
        train(params, "raster", tmp_path / "none.h5", tmp_path / "out", compiled=True, device="cpu")
    with pytest.raises(InputError, match=r"none\.h5"):  # nothing is to be compiled
        train(params, "raster", tmp_path / "none.h5", tmp_path / "out", device="cpu")
    monkeypatch.setenv("CXX", "g++")
    with pytest.raises(InputError, match=r"none\.h5"):
        train(params, "raster", tmp_path / "none.h5", tmp_path / "out", compiled=True, device="cpu")
