"""Counts the work of a computation without doing it: FLOPs, kernels, bytes moved, memory held.

The real code runs on tensors with shapes but no values: `FakeTensorMode` rather than the meta device, because autocast
and the choice of the attention kernel depend on the device, which fake tensors remember. A FLOP is one multiplication
or addition in a matrix product, convolution or attention; causal attention counts its t(t + 1) / 2 live pairs of t^2.
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import spn.layers.attention  # noqa: F401 (registers our operators)


@dataclass(frozen=True)
class Work:
    """A count of FLOPs, of kernels called, and of bytes that kernels read and write."""

    flops: int
    calls: int
    bytes: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.calls + other.calls, self.bytes + other.bytes)

    def __mul__(self, times: int) -> "Work":
        return Work(times * self.flops, times * self.calls, times * self.bytes)

    def __floordiv__(self, parts: int) -> "Work":
        return Work(self.flops // parts, self.calls // parts, self.bytes // parts)


class Tally(TorchDispatchMode):
    """Counts what runs on fake tensors inside `with tally`; memory is that of tensors, without the kernels' buffers.

    Do not use it under `inference_mode`, which dispatches whole layers instead of their kernels.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._flops = self._calls = self._bytes = 0
        self._held = self._peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @property
    def work(self) -> Work:
        """The work so far."""
        return Work(self._flops, self._calls, self._bytes)

    @property
    def held_bytes(self) -> int:
        """The memory of the tensors that were made inside and are still alive."""
        return self._held

    @property
    def peak_bytes(self) -> int:
        """The maximum of `held_bytes` so far."""
        return self._peak

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one kernel and count it, unless it is a view or only queries a tensor."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is not torch.ops.prim.device.default and not func.is_view:
            self._calls += 1
            self._bytes += sum(tensor.nbytes for tensor in _tensors((args, kwargs, result)))
            self._count_flops(func.overloadpacket, args, kwargs, result)
            for tensor in _tensors(result):
                self._hold(tensor.untyped_storage())
        return result

    def _count_flops(
        self, kernel: OpOverloadPacket[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        if kernel in _ATTENTION:
            self._flops += _ATTENTION[kernel](*args, **kwargs)
        elif kernel in flop_registry:
            self._flops += flop_registry[kernel](*args, **kwargs, out_val=result)

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return

        def release(_: object) -> None:
            del self._alive[key]
            self._held -= size

        self._alive[key] = weakref.ref(storage, release)
        self._held += size
        self._peak = max(self._peak, self._held)


def imagined() -> FakeTensorMode:
    """Return the mode in which tensors have shapes but no values; real tensors may be mixed in."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _attention(
    query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0, is_causal: bool = False, **_: Any
) -> int:
    """Count two products, queries with keys and weights with values, each as wide as a head."""
    queries, keys = query.shape[-2], key.shape[-2]
    pairs = queries * (queries + 1) // 2 if is_causal else queries * keys
    return 4 * pairs * query.numel() // queries


def _attention_in_training(queries: Tensor, keys: Tensor, values: Tensor, is_causal: bool, scale: float) -> int:
    return _attention(queries, keys, values, is_causal=is_causal)


def _attention_backward(
    gradient: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mixed: Tensor, log_sums: Tensor, *options: Any
) -> int:
    """Count five products: the scores again, and the gradients of values, weights, queries and keys."""
    return _attention_in_training(queries, keys, values, *options) * 5 // 2


_ATTENTION: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.spn.attend_on_cpu: _attention_in_training,
    torch.ops.spn.attend_on_cpu_backward: _attention_backward,
}
"""torch has no formulas for the CPU's kernels, nor for our operators, which call them."""
