"""The machine of a plan: this one, measured by the probe, or GPUs by their data sheets.

NOTE: figures for GPUs by name are a forecast, measured nowhere. The shares of the data sheets' figures that a training
achieves are ours. They reproduce the three steps measured in benchmarks/H200.md (widths of 128, 512 and 1,024) to
within a tenth, and say nothing of other GPUs, of reading data, or of the exchange of gradients between GPUs.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from spn.config import InputError
from spn.machine import total_bytes
from spn.planning.probe import Precision, Speed, Speeds, measure_speeds


@dataclass(frozen=True)
class Gpu:
    """Figures of a data sheet: decimal GB, TFLOP/s of dense products without TF32, and TB/s of memory."""

    memory: int
    bfloat16: float
    float32: float
    bandwidth: float


GPUS = {
    "A100": Gpu(memory=80, bfloat16=312.0, float32=19.5, bandwidth=2.04),
    "H100": Gpu(memory=80, bfloat16=989.0, float32=67.0, bandwidth=3.35),
    "H200": Gpu(memory=141, bfloat16=989.0, float32=67.0, bandwidth=4.8),
    "L40S": Gpu(memory=48, bfloat16=362.0, float32=91.6, bandwidth=0.864),
    "RTX4090": Gpu(memory=24, bfloat16=165.0, float32=82.6, bandwidth=1.01),
}
"""By name; the A100, H100 and H200 are those with SXM sockets, the A100 that of 80 GB."""

PRODUCTS = 0.7
"""Share of a data sheet's FLOP/s that matrix products achieve."""

BANDWIDTH = 0.9
"""Share of a data sheet's bandwidth that kernels achieve."""

PER_CALL = 1.2e-6
"""Seconds to start a kernel while another runs."""


@dataclass(frozen=True)
class Machine:
    """What a plan is for: speeds and bytes of memory, of each of `num_gpus` if there are several."""

    speeds: Speeds
    memory: int
    name: str
    basis: str
    """What the times are based on."""
    num_gpus: int = 1


def this_machine(device: torch.device, precisions: Collection[Precision]) -> Machine:
    """Measure the speeds of a device of this machine."""
    place = f"cpu, threads: {torch.get_num_threads()}" if device.type == "cpu" else torch.cuda.get_device_name(device)
    basis = f"estimates for this machine ({place}) from a probe of a few seconds"
    return Machine(measure_speeds(device, precisions), total_bytes(device), "this machine", basis)


def stated_gpus(name: str, num_gpus: int) -> Machine:
    """Return `num_gpus` GPUs by their data sheet; raise InputError if there is none of this name."""
    if name not in GPUS:
        raise InputError(f"--gpu: expected one of {', '.join(GPUS)}, got {name}")
    gpu = GPUS[name]
    speeds: dict[Precision, Speed] = {"float32": _speed(gpu, gpu.float32), "bfloat16": _speed(gpu, gpu.bfloat16)}
    shared = " or exchanging gradients" if num_gpus > 1 else ""
    basis = (
        f"a forecast for {num_gpus} x {name}, measured nowhere, from the data sheet: {PRODUCTS:.0%} of "
        f"{gpu.bfloat16:g} TFLOP/s in bfloat16 and {gpu.float32:g} in float32, {BANDWIDTH:.0%} of "
        f"{gpu.bandwidth:g} TB/s, {PER_CALL * 1e6:g} us a kernel, without reading data{shared}"
    )
    return Machine(Speeds(speeds, speeds["float32"]), gpu.memory * 10**9, f"one {name}", basis, num_gpus)


def _speed(gpu: Gpu, teraflops: float) -> Speed:
    return Speed(1 / (PRODUCTS * teraflops * 1e12), PER_CALL, 1 / (BANDWIDTH * gpu.bandwidth * 1e12))
