"""Real trainings in processes of their own, which tests may kill; what takes seconds to import is imported once."""

import contextlib
import multiprocessing
import os
import sys
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from experiment import write_params
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from spn.cli import main
from spn.tracking import open_experiment

DATA = {"raster": "S1.h5", "vq": "S1.h5", "restarting": "S1.h5", "high": "S2.h5", "low": "S2.h5"}

_stores: list[TCPStore] = []


def make_experiment(folder: Path, params: dict[str, Any]) -> Path:
    """Write params.yaml and the data of a variant of the tiny experiment, and make its MLflow store."""
    folder.mkdir(parents=True, exist_ok=True)
    write_params(folder, params)
    with contextlib.chdir(folder):
        for scale_factor in ("1", "2"):
            assert main(["preprocess", "--scale-factor", scale_factor, "--output", f"S{scale_factor}.h5"]) == 0
        open_experiment(Path("experiment.json"), params["data"]["name"])
    return folder


def train_command(stage: str, place: str = "out") -> list[str]:
    """Return the command that trains a stage into a folder, with the state of the run in it."""
    given = ["--data", DATA[stage], "--experiment", "experiment.json"]
    return ["train", stage, *given, "--output", place, "--runs", f"{place}/runs"]


@cache
def context() -> ForkServerContext:
    """Start the server that processes are forked from, with what takes seconds to import imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    with pytest.MonkeyPatch.context() as patch:
        # Python 3.11 does not hand its path on to the server, which then passes over what it does not find.
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    return context


def start(folder: Path, command: list[str], log: str = "log", variables: dict[str, str] | None = None) -> BaseProcess:
    """Run a verb in a process of its own, in a folder, with what it says appended to a log there."""
    process = context().Process(target=_run, args=(folder, command, log, variables or {}))
    process.start()
    return process


def host_store() -> int:
    """Host what processes find each other by, as torchrun does, for as long as the tests run; return its port."""
    _stores.append(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
    return _stores[-1].port


def torchrun_variables(rank: int, count: int) -> dict[str, str]:
    """Return what torchrun tells a process, without the port."""
    common = {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1"}
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    return common | {name: str(number) for name, number in numbers.items()}


def start_several(folder: Path, command: list[str], count: int, log: str = "log") -> list[BaseProcess]:
    """Run a verb in processes that find each other as torchrun's do."""
    port = {"MASTER_PORT": str(host_store())}
    return [start(folder, command, f"{log}{rank}", torchrun_variables(rank, count) | port) for rank in range(count)]


def _run(folder: Path, command: list[str], log: str, variables: dict[str, str]) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ.update(variables)
    os.chdir(folder)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    raise SystemExit(main(command))
