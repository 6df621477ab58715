"""How this machine multiplies matrices, and how much memory it has: what costs time and changes no result."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

FLOAT32_ERROR = 1e-5
"""Largest error of a product, as a share of its largest entry, that is float32's; bfloat16 has some 1e-3."""


@contextmanager
def onednn_matmul(device: torch.device) -> Iterator[str]:
    """Route the CPU's float32 matrix products through oneDNN while in this context, where they stay float32.

    oneDNN is twice as fast as MKL on AMD processors, but reached only by allowing bfloat16, which it makes no use of
    where there are no matrix units (AMX). So the products are compared with those in float64, and where the error is
    not float32's, nothing is changed. Not for sampling, whose products of few rows are slower so. Gives one line that
    says what was decided and why.
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
            yield f"float32 products as they come: oneDNN's are not float32 here (error {error:.0e})"
    finally:
        settings.fp32_precision = former


def _product_error() -> float:
    """Compare products of the kinds that training takes with those in float64."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, 252, generator=generator) for size in (512, 128))
    error = 0.0
    for one, other in ((left, right.T), (left.T, left)):
        exact = one.double() @ other.double()
        error = max(error, ((one @ other - exact).abs().max() / exact.abs().max()).item())
    return error


def total_bytes(device: torch.device) -> int:
    """Return the bytes of memory that a device has in all."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_bytes(device: torch.device) -> int:
    """Count the bytes that are free on a device; for the CPU, within the limit of the job it runs in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([free, *_left_in_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def _left_in_groups(groups: Path, root: Path) -> list[int]:
    """Read what the control groups of this process (v2, as Slurm and containers set them) leave of their limits."""
    lines = groups.read_text().splitlines() if groups.exists() else []
    left = []
    for line in lines:
        folder = root / line.partition("::")[2].strip("/")
        for each in (folder, *folder.parents):
            limit, used = each / "memory.max", each / "memory.current"
            if limit.exists() and (text := limit.read_text().strip()) != "max":
                left.append(max(0, int(text) - int(used.read_text())))
    return left
