"""A job of several processes: their ranks, what they agree on, and how they share work.

torchrun starts one process for each GPU of the job, on each of its nodes. Without torchrun there is one process and no
communication. Messages go over gloo, between CPUs, so that none waits for a GPU; gradients have a separate process
group.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain, zip_longest
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from spn.config import InputError

Item = TypeVar("Item")
Items = TypeVar("Items", Tensor, tuple[Tensor, ...])

_groups: list[dist.ProcessGroup | None] = []
"""All process groups, kept until the process ends to prevent a deadlock: DistributedDataParallel would free the last
reference while it holds the GIL, and wait for the group's threads, one of which may wait for the GIL."""


def is_one_of_several() -> bool:
    """Tell whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def local_rank() -> int:
    """Return the rank of this process on its node, which is the number of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if is_one_of_several() else 0


@contextmanager
def joined(recipe_digest: str) -> Iterator[None]:
    """Join the processes that torchrun started; do nothing in a single process.

    Raises InputError if their recipes differ, because parameters, code or data were edited while they started.
    """
    if not is_one_of_several():
        yield
        return
    dist.init_process_group("gloo")
    _groups.append(dist.group.WORLD)
    try:
        agree("parameters, code and data", recipe_digest, "edited while they started")
        yield
    finally:
        dist.destroy_process_group()


def agree(what: str, mine: object, reason: str) -> None:
    """Raise InputError if what a process has read is not the same in all of them; every process must call this."""
    if len(set(collect([mine]))) > 1:
        raise InputError(
            f"process {rank() + 1} of {num_processes()}: expected the same {what} in all of them, got others, "
            f"{reason}; run the same command again"
        )


def num_processes() -> int:
    """Count the processes of the job."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Tell whether this is the first process, which writes and logs."""
    return rank() == 0


def any_of(*flags: bool) -> tuple[bool, ...]:
    """Tell for each flag whether it is set in any process; every process must call this."""
    if num_processes() == 1:
        return flags
    raised = torch.tensor(flags, dtype=torch.uint8)
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return tuple(bool(flag) for flag in raised)


def mean(values: Tensor) -> Tensor:
    """Average numbers over the processes; a single process returns them unchanged."""
    if num_processes() == 1:
        return values
    total = values.cpu()
    dist.all_reduce(total)
    return (total / num_processes()).to(values.device)


def share(items: Items) -> Items:
    """Return this process' share of the items: every n-th, for n processes."""
    return items[rank() :: num_processes()]


def collect(mine: Sequence[Item]) -> list[Item]:
    """Gather the results of all shares in the order of the items; every process gets all of them."""
    if num_processes() == 1:
        return list(mine)
    shares: list[list[Item]] = [[] for _ in range(num_processes())]
    dist.all_gather_object(shares, list(mine))
    absent = object()
    return [item for item in chain.from_iterable(zip_longest(*shares, fillvalue=absent)) if item is not absent]


def without_averaging(nats: object) -> AbstractContextManager[None]:
    """Keep the gradients of a loss of several processes to oneself, to add others to them before they are averaged."""
    found: AbstractContextManager[None] = nats.no_sync() if isinstance(nats, DistributedDataParallel) else nullcontext()
    return found


def gradient_group(device: torch.device) -> dist.ProcessGroup | None:
    """Return the process group that averages gradients on a device; every process must call this."""
    if device.type != "cuda":
        return dist.group.WORLD
    _groups.append(dist.new_group(backend="nccl"))
    return _groups[-1]
