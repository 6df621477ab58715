"""Ways to kill or stop the workflow."""

import os
import random
import signal
import subprocess
from pathlib import Path

import psutil

WAYS = ("everything", "snakemake", "job", "terminate", "interrupt")
"""SIGKILL of a tool and all below it, of Snakemake alone, of one job; SIGTERM; SIGINT to all, as Ctrl-C sends it."""


def kill(process: "subprocess.Popen[bytes]", way: str, chance: random.Random) -> str:
    """Kill or stop a tool, or one of its jobs, and say how."""
    top = psutil.Process(process.pid)
    below = top.children(recursive=True)
    match way:
        case "everything":
            os.killpg(process.pid, signal.SIGKILL)
            for each in below:
                _send(each, signal.SIGKILL)
        case "job":
            jobs = [each for each in below if "spn" in programs(each)]
            if not jobs:
                return "no job to kill"
            _send(chance.choice(jobs), signal.SIGKILL)
        case "interrupt":
            os.killpg(process.pid, signal.SIGINT)
        case _:
            snakemake = next((each for each in [top, *below] if "snakemake" in programs(each)), top)
            _send(snakemake, signal.SIGTERM if way == "terminate" else signal.SIGKILL)
    return way


def programs(process: psutil.Process) -> set[str]:
    """Name the program that a process runs, by itself or by Python."""
    try:
        return {Path(word).name for word in process.cmdline()[:2]}
    except psutil.Error:
        return set()


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
