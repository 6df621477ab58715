"""Reads CIFAR-10's pickled batches without running any code that they name.

The official files name numpy's array constructors. Stand-ins replace these and only record their arguments, so that no
code of numpy or any other module runs. Operations are counted first, so that a file of a few bytes cannot use
gigabytes.
"""

import io
import pickle
import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from spn.config import InputError

PIXELS = 3 * 32 * 32

MAX_OPERATIONS = 200_000
"""About five times as many as an official batch of 10,000 images needs."""

MALFORMED = (
    pickle.UnpicklingError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    EOFError,
    ImportError,
    OverflowError,
    MemoryError,
    RecursionError,
)
"""Errors of the unpickler for files that are no pickle of a dict of arrays."""


@dataclass
class RawType:
    """A dtype as a pickle describes it."""

    code: str

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment mean nothing for bytes."""


@dataclass
class RawArray:
    """An array as a pickle describes it."""

    shape: Any = None
    dtype: Any = None
    fortran: Any = None
    data: Any = None

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state


class StandIn(NamedTuple):
    """Replaces a callable; immutable, because a pickle may try to set attributes on it."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        """Record the call."""
        return self.function(*arguments)


def _latin1(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError("bytes that are not written as latin1")
    return text.encode("latin1")


def _raw_type(code: Any, *_: Any) -> RawType:
    return RawType(code.decode("ascii") if isinstance(code, bytes) else str(code))


_new_array = StandIn(lambda *_: RawArray())

ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("numpy", "ndarray"): StandIn(lambda *_: RawArray()),
    ("numpy", "dtype"): StandIn(_raw_type),
    ("_codecs", "encode"): StandIn(_latin1),
}


class BatchUnpickler(pickle.Unpickler):
    """Admits plain containers, strings, numbers and the names in `ADMITTED`."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a global; raise UnpicklingError if there is none."""
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"a pickle that names {module}.{name}")
        return ADMITTED[module, name]


def parse_batch(content: bytes, where: str) -> tuple[UInt8[np.ndarray, "image 32 32 3"], Int64[np.ndarray, " image"]]:
    """Read the images and labels of one batch file; raise InputError, naming `where`, if it is not an official one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in strings
            _count_operations(content)
            batch = BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
        data, labels = batch[b"data"], batch[b"labels"]
    except MALFORMED as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where}: expected an official CIFAR-10 batch, got {cause}") from error
    images = _images(data, where)
    return images, _labels(labels, len(images), where)


def _count_operations(content: bytes) -> None:
    """Refuse more operations or higher memo indices than a batch needs; the unpickler allocates up to the highest."""
    for position, (operation, argument, _) in enumerate(pickletools.genops(content)):
        memo_index = int(argument or 0) if operation.name in {"PUT", "BINPUT", "LONG_BINPUT"} else 0
        if max(position, memo_index) > MAX_OPERATIONS:
            raise pickle.UnpicklingError("a pickle that takes too much memory")


def _images(data: Any, where: str) -> UInt8[np.ndarray, "image 32 32 3"]:
    """Turn rows of a red, a green and a blue plane into images."""
    if not isinstance(data, RawArray) or data.dtype not in [RawType("u1"), RawType("|u1")] or data.fortran:
        raise InputError(f"{where}: expected data to be an array of uint8")
    size = len(data.data) if isinstance(data.data, bytes) else 0
    if not size or size % PIXELS or data.shape != (size // PIXELS, PIXELS):
        raise InputError(f"{where}: expected data of shape [N, {PIXELS}], got {data.shape}")
    return np.frombuffer(data.data, dtype=np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _labels(labels: Any, count: int, where: str) -> Int64[np.ndarray, " image"]:
    if not isinstance(labels, list) or len(labels) != count or not set(map(type, labels)) <= {int}:
        raise InputError(f"{where}: expected a list of {count} whole numbers as labels")
    if any(not 0 <= label <= 9 for label in labels):
        raise InputError(f"{where}: expected labels from 0 to 9, got {min(labels)} to {max(labels)}")
    return np.array(labels, dtype=np.int64)
