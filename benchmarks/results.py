"""Writes the results: JSON for programs, Markdown tables for people."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import Peaks
from benchmarks.table import Row, markdown


def write(
    name: str,
    machine: dict[str, Any],
    peaks: Peaks,
    rows: list[Row],
    folder: Path,
    failed: Sequence[str] = (),
) -> None:
    """Write `folder`/`name`.json and .md; `failed` lists parts that could not be measured, with the reasons."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": machine,
        "matmul_peak": asdict(peaks),
        "rows": [row.as_json() for row in rows],
        "failed": list(failed),
    }
    _replace(folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
    parts = [_machine_line(machine, peaks), markdown(rows), *(f"FAILED: {each}" for each in failed)]
    _replace(folder / f"{name}.md", "\n\n".join(parts) + "\n")


def show(name: str, rows: list[Row], folder: Path, failed: Sequence[str] = ()) -> bool:
    """Print the table; tell whether everything was measured and every must reached."""
    print((folder / f"{name}.md").read_text())
    missed = [row.name for row in rows if row.met is False]
    for each in missed:
        print(f"MISSED: {each}")
    return not missed and not failed


def _machine_line(machine: dict[str, Any], peaks: Peaks) -> str:
    gflops = f"float32 {peaks.float32 / 1e9:,.0f} GFLOP/s, bfloat16 {peaks.bfloat16 / 1e9:,.0f} GFLOP/s"
    if routes := peaks.float32_routes:
        gflops += f" (float32 through oneDNN {routes['through oneDNN'] / 1e9:,.0f}, with an error of "
        gflops += f"{routes['error through oneDNN']:.0e})"
    described = ", ".join(f"{key} {value}" if key != "device" else str(value) for key, value in machine.items())
    return f"Measured on {described}. Matmul peak: {gflops}."


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
