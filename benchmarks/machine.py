"""The machine: its name, and its best measured matrix product."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Run, timer_of
from spn.machine import onednn_matmul
from spn.provenance import git_commit


def describe(device: torch.device) -> dict[str, Any]:
    """Describe the machine and its software."""
    is_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": git_commit(),
    }


def cpu_name() -> str:
    """Name the processor and the vector instructions that torch uses."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


@dataclass(frozen=True)
class Peaks:
    """The best square matrix products seen, in FLOP/s; of float32 as training computes them."""

    float32: float
    bfloat16: float
    float32_routes: dict[str, float]
    """The CPU's routes for float32 products, and the error of oneDNN's relative to the largest entry.

    oneDNN's route is `torch.backends.mkldnn.matmul.fp32_precision = "bf16"`, which computes in bfloat16 if the CPU has
    AMX, and otherwise in float32; training uses it only in the latter case.
    """


def matmul_peaks(device: torch.device, sizes: tuple[int, ...], repetitions: int) -> Peaks:
    """Measure the best of all sizes and repetitions."""

    def best(dtype: torch.dtype) -> float:
        return max(_best_rate(size, dtype, device, repetitions) for size in sizes)

    with onednn(trains_through_onednn(device)):
        float32, bfloat16 = best(torch.float32), best(torch.bfloat16)
    if device.type != "cpu":
        return Peaks(float32, bfloat16, {})
    routes = {"as they come": best(torch.float32)}
    with onednn(is_on=True):
        routes |= {"through oneDNN": best(torch.float32), "error through oneDNN": _product_error()}
    return Peaks(float32, bfloat16, routes)


def _best_rate(size: int, dtype: torch.dtype, device: torch.device, repetitions: int) -> float:
    run = product(size, dtype, device)
    seconds = [timer_of(device)(run) for _ in range(1 + repetitions)]
    return 2 * size**3 / min(seconds[1:])


def product(size: int, dtype: torch.dtype, device: torch.device, times: int = 1) -> Run:
    """Multiply two square matrices some times over."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)

    def run() -> None:
        for _ in range(times):
            torch.matmul(left, right, out=out)

    return run


@contextmanager
def onednn(is_on: bool) -> Iterator[None]:
    """Send the CPU's float32 matrix products to oneDNN, or leave them unchanged."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    if is_on:
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def trains_through_onednn(device: torch.device) -> bool:
    """Tell whether training sends its float32 products to oneDNN on this machine."""
    with onednn_matmul(device):
        products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        return device.type == "cpu" and products.fp32_precision == "bf16"


def _product_error() -> float:
    left, right = (torch.randn(512, 512) for _ in range(2))
    exact: Tensor = left.double() @ right.double()
    return float(((left @ right) - exact).abs().max() / exact.abs().max())
