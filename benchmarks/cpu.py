"""Benchmarks of the CPU: `python -m benchmarks.cpu [--only NAME ...] [--tiny] [--strict]`, one thread."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import (
    coding,
    data,
    decoding,
    families,
    fixed_point,
    growth,
    machine,
    memory,
    results,
    sampling,
    sources,
    training,
)
from benchmarks.reference import CPU, Scale
from benchmarks.table import Row
from spn.machine import keep_freed_memory

PARTS = ("sampling", "families", "fixed_point", "training", "memory", "data", "sources", "decoding", "coding", "growth")


def main(arguments: list[str] | None = None) -> int:
    """Measure, write and print; return 1 if a must is missed under --strict."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()  # as the pipeline does; the baselines gain as much
    torch.manual_seed(1)
    scale = Scale(options.tiny)
    peaks = machine.matmul_peaks(CPU, (256,) if scale.tiny else (1024, 2048), scale.repetitions(25))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in options.only or PARTS:
            start = time.monotonic()
            rows += measure(part, scale, Path(folder), peaks)
            print(f"{part}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    results.write("benchmarks", machine.describe(CPU), peaks, rows, options.output)
    is_met = results.show("benchmarks", rows, options.output)
    return int(options.strict and not is_met)


def measure(part: str, scale: Scale, folder: Path, peaks: machine.Peaks) -> list[Row]:
    """Measure the rows of one part."""
    match part:
        case "sampling":
            return sampling.rows(scale)
        case "families":
            return families.rows(scale)
        case "fixed_point":
            return fixed_point.rows(scale)
        case "training":
            return training.rows(scale, folder, peaks)
        case "memory":
            return memory.rows(scale)
        case "data":
            return data.rows(scale, folder)
        case "sources":
            return sources.rows(scale, folder)
        case "decoding":
            return decoding.rows(scale, folder)
        case "coding":
            return coding.rows(scale)
        case _:
            return growth.rows(scale, folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME", help=f"measure only some of {PARTS}")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes and one repetition: the figures mean nothing")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a must is missed")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder of benchmarks.json and .md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
