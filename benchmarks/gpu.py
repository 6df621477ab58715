"""Benchmarks of a GPU: `python -m benchmarks.gpu [--seconds 450] [--device cuda]`, everything in one call.

Results are written after every part, so that a failing part or a killed call loses no earlier results. A part is left
out if there is not enough time for it.
"""

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

from benchmarks import gpu_rows, machine, results
from benchmarks.reference import Scale
from benchmarks.table import Row

PARTS = {
    "sampling": (gpu_rows.sampling, 60),
    "utilisation": (gpu_rows.utilisation, 60),
    "against_common": (gpu_rows.against_common, 30),
    "memory": (gpu_rows.memory, 20),
    "compilation": (gpu_rows.compilation, 120),
}
"""The parts to measure, in this order, and the seconds each may take."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, write and print; return 1 if a part failed, 2 if there is no GPU."""
    options = _parser().parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu: expected a CUDA device, got none", file=sys.stderr)
        return 2
    start, scale = time.monotonic(), Scale(options.tiny)
    torch.manual_seed(1)
    sizes = (256,) if scale.tiny else (4096, 8192)
    peaks = machine.matmul_peaks(device, sizes, scale.repetitions(7))
    described = machine.describe(device)
    rows: list[Row] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or PARTS:
            measure, estimate = PARTS[name]
            if time.monotonic() - start + estimate > options.seconds:
                failed.append(f"{name}: left out, for want of time")
            else:
                try:
                    rows += measure(scale, Path(folder), peaks, device)
                except Exception as error:  # a failing part must not stop the others, because GPU time is expensive
                    traceback.print_exc()
                    failed.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            results.write("benchmarks-gpu", described, peaks, rows, options.output, failed)
            print(f"{name}: {time.monotonic() - start:.0f} s since the start", file=sys.stderr, flush=True)
    results.show("benchmarks-gpu", rows, options.output, failed)
    return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME", help=f"measure only some of {list(PARTS)}")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes and one repetition: the figures mean nothing")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ...; cpu to try the code")
    parser.add_argument("--seconds", type=float, default=450, help="time that all of it may take")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder of benchmarks-gpu.json and .md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
