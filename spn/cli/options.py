"""What options name: stages and chains of params.yaml, and devices of the machine. A wrong name is one line."""

from pathlib import Path
from typing import TYPE_CHECKING

from spn.config import InputError, Params, load_params

if TYPE_CHECKING:
    import torch


def load_for_stage(params: Path, stage: str, chain: str | None = None) -> Params:
    """Load the parameters for work on a stage, of a certain chain where one is named."""
    loaded = load_params(params)
    check_stage_name(loaded, stage)
    if chain is not None and stage not in (stages := stages_of(loaded, chain)):
        raise InputError(f"stage: expected one of chain {chain} ({', '.join(stages)}), got {stage}")
    return loaded


def check_stage_name(params: Params, stage: str) -> None:
    """Raise InputError unless a chain uses the stage."""
    if stage not in params.stage_plans:
        known = ", ".join(params.stage_plans)
        raise InputError(f"stage: expected one that a chain uses ({known}), got {stage}")


def stages_of(params: Params, chain: str) -> tuple[str, ...]:
    """Name the stages of a chain, in order; raise InputError where there is no such chain."""
    if chain not in params.chains:
        raise InputError(f"chain: expected one of {', '.join(params.chains)}, got {chain}")
    return params.chains[chain].stages


def choose_device(name: str, threads: int) -> "torch.device":
    """Choose the device and set the threads of the process; each of several processes has a GPU of its own."""
    import torch

    from spn.distributed import is_one_of_several, local_rank

    torch.set_num_threads(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and is_one_of_several():
        name = f"cuda:{local_rank()}"
        torch.cuda.set_device(name)  # NCCL goes by it
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device: expected a device of this machine, got {name}: {error}") from error
