"""The device that a rule works on."""

import re
import sys

import torch

from spn.config import InputError
from spn.distributed import is_one_of_several, local_rank, num_processes, rank
from spn.machine import device_of, keep_freed_memory, onednn_matmul

MOST_THREADS = 1024
"""More than any machine has use for; torch ends in a segmentation fault with some more."""


def choose_device(name: str, threads: int) -> torch.device:
    """Choose the device and set the number of threads; each of several processes gets its own GPU."""
    if threads > MOST_THREADS:
        raise InputError(f"--threads: expected at most {MOST_THREADS:,}, got {threads:,}")
    torch.set_num_threads(threads)
    keep_freed_memory()
    # Torch knows other devices, on which nothing here was tested, and "meta", which computes nothing.
    if not re.fullmatch("auto|cpu|cuda(:[0-9]+)?", name):
        raise InputError(f"--device: expected auto, cpu, cuda or cuda:N, got {name}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and is_one_of_several():
        name = f"cuda:{local_rank()}"
    place = device_of("--device", name)
    if place.type == "cuda":
        torch.cuda.set_device(place)  # because NCCL uses the current device
    return place


def log_place(stage: str, place: torch.device) -> None:
    """Write to the log which device and process work on a stage, and how float32 matrices are multiplied."""
    which = f" (process {rank() + 1} of {num_processes()})" if num_processes() > 1 else ""
    with onednn_matmul(place) as products:
        print(f"{stage} on {place}{which}: {products}", file=sys.stderr)
