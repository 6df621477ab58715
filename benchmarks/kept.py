"""Counts the memory that a loss keeps for backward, and its FLOPs, with the real code on tensors without values."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spn.planning.work import Tally, imagined

Problem = Callable[[int], tuple[nn.Module, Callable[[], Tensor]]]
"""Makes, for a batch size, a network and its loss."""


@dataclass(frozen=True)
class Kept:
    """Bytes kept for backward: those that each image of a batch adds, and a constant."""

    per_image: int
    constant: int


def kept_for_backward(problem: Problem, batch: int) -> Kept:
    """Split the bytes kept into the part that grows with the batch, measured from `batch` images, and the constant."""
    with imagined():
        one, two = (held_bytes(*problem(count)) for count in (batch, 2 * batch))
    return Kept((two - one) // batch, 2 * one - two)


def held_bytes(model: nn.Module, loss: Callable[[], Tensor]) -> int:
    """Sum the storages that are alive between forward and backward, each once, without the network's own.

    Counting the tensors that autograd saves would miss inputs that a checkpoint holds itself, and would include
    tensors saved for unused outputs, which are freed.
    """
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    with _Storages() as storages:
        result = loss()
    held = {storage._cdata: storage.nbytes() for storage in storages.alive()}
    del result
    return sum(size for key, size in held.items() if key not in own)


class _Storages(TorchDispatchMode):
    """Follows the storages of all tensors that are made inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._made: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                # If an address is used again, the earlier storage at it is gone.
                self._made[storage._cdata] = weakref.ref(storage)
        return result

    def alive(self) -> list[torch.UntypedStorage]:
        """List the storages that are still alive."""
        return [storage for made in self._made.values() if (storage := made()) is not None]


def peak_bytes(loss: Callable[[], Tensor]) -> int:
    """Return the peak memory of the tensors of a forward and backward pass."""
    with Tally() as tally:
        loss().backward()
    return tally.peak_bytes


def forward_flops(problem: Problem) -> int:
    """Count the operations of one forward pass over one image, including those on masked weights."""
    with imagined():
        _, loss = problem(1)
        with torch.no_grad(), Tally() as tally:
            loss()
    return tally.work.flops
