"""The machine: how it multiplies float32 matrices, and how much memory it has."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from spn.config import InputError

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's mallopt."""

FLOAT32_ERROR = 1e-5
"""Maximum error of a float32 product, relative to its largest entry; bfloat16 has about 1e-3."""


def device_of(what: str, name: str | torch.device) -> torch.device:
    """Return a device of this machine; raise InputError, naming `what` asks for it, if there is no such device."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # what follows is advice
        raise InputError(f"{what}: expected a device of this machine, got {name}: {reason}") from error


@contextmanager
def onednn_matmul(device: torch.device) -> Iterator[str]:
    """Route the CPU's float32 matrix products through oneDNN in this context, if they stay float32.

    oneDNN is twice as fast as MKL on AMD processors, but torch uses it only if bfloat16 is allowed. oneDNN then uses
    bfloat16 only on processors with matrix units (AMX). So its products are compared with float64, and if the error is
    too large for float32, nothing is changed. Do not use it for sampling, because products of few rows become slower.
    Yields one line that states the decision and its reason.
    """
    if device.type != "cpu":
        yield f"float32 products as {device.type} computes them"
        return
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    former = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        error = _product_error()
        if error < FLOAT32_ERROR:
            yield f"float32 products through oneDNN, which stay float32 here (error {error:.0e})"
        else:
            settings.fp32_precision = former
            yield f"float32 products by torch's default: oneDNN's are not float32 here (error {error:.0e})"
    finally:
        settings.fp32_precision = former


@contextmanager
def default_matmul() -> Iterator[None]:
    """Multiply the CPU's float32 matrices by torch's default in this context, whatever `onednn_matmul` decided."""
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    former = settings.fp32_precision
    settings.fp32_precision = "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = former


def keep_freed_memory() -> None:
    """Let glibc keep up to 2 GiB of freed memory, of blocks up to 32 MiB, for the next step of this process.

    By default it gives back all but 64 MiB, and a training step has its pages zeroed again: 3 to 6 % of its time.
    Other C libraries are left as they are.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        mallopt(MMAP_THRESHOLD, 2**25)


def _product_error() -> float:
    """Return the largest error of products like those of training, compared with float64."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, 252, generator=generator) for size in (512, 128))
    error = 0.0
    for one, other in ((left, right.T), (left.T, left)):
        exact = one.double() @ other.double()
        error = max(error, ((one @ other - exact).abs().max() / exact.abs().max()).item())
    return error


def total_bytes(device: torch.device) -> int:
    """Return the total memory of a device in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device in bytes; for the CPU, within the limits of the job."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([free, *_left_in_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def _left_in_groups(groups: Path, root: Path) -> list[int]:
    """Return the memory left within each limit of this process' control groups (v2, set by Slurm and containers)."""
    lines = groups.read_text().splitlines() if groups.exists() else []
    left = []
    for line in lines:
        folder = root / line.partition("::")[2].strip("/")
        for each in (folder, *folder.parents):
            limit, used = each / "memory.max", each / "memory.current"
            if limit.exists() and (text := limit.read_text().strip()) != "max":
                left.append(max(0, int(text) - int(used.read_text())))
    return left
