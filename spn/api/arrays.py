"""Arrays that users pass in and get back: NumPy or torch, the same kind out as in."""

from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from spn.config import InputError

Array: TypeAlias = Shaped[np.ndarray, "..."] | Shaped[Tensor, "..."]
Images: TypeAlias = UInt8[Tensor, "image height width channel"]


def as_array(values: Any) -> Array:
    """Return an array as it is, and what can be made one, such as nested lists, as a NumPy array."""
    return values if isinstance(values, Tensor) else np.asarray(values)


def as_levels(images: Array, shape: tuple[int, int, int], bits: int, what: str = "images") -> Images:
    """Check images of levels [N, H, W, C] and return them as a uint8 tensor on the CPU.

    Any type of whole numbers is accepted. Raises InputError with the expected and the actual type, shape or level.
    """
    images = as_array(images)
    kind = str(images.dtype).removeprefix("torch.")
    if not kind.lstrip("<>=").startswith(("int", "uint", "i", "u")):
        raise InputError(f"{what}: expected whole numbers (uint8), got {kind}")
    # In NumPy, because torch has no minimum of unsigned numbers of more than 8 bits.
    levels = images.cpu().numpy() if isinstance(images, Tensor) else images
    height, width, channels = shape
    if levels.ndim != 4 or tuple(levels.shape[1:]) != shape or not len(levels):
        raise InputError(f"{what}: expected [N, {height}, {width}, {channels}], N > 0, got {list(levels.shape)}")
    lowest, highest = int(levels.min()), int(levels.max())
    if lowest < 0 or highest >= 1 << bits:
        found = lowest if lowest < 0 else highest
        raise InputError(f"{what}: expected levels 0 to {(1 << bits) - 1} ({bits} bits), got {found}")
    return torch.from_numpy(levels.astype(np.uint8))


def as_picture(picture: Array, channels: int, bits: int) -> UInt8[Tensor, "height width channel"]:
    """Check a picture of levels [H, W, C] of any size; raise InputError as `as_levels` does."""
    picture = as_array(picture)
    if picture.ndim != 3:
        raise InputError(f"picture: expected [H, W, {channels}], got {list(picture.shape)}")
    height, width = picture.shape[:2]
    return as_levels(picture[None], (height, width, channels), bits, "picture")[0]


def like(given: Array | None, values: Array) -> Any:
    """Return values as the kind of array that was given: a torch tensor, or else a NumPy array."""
    if isinstance(given, Tensor):
        return torch.as_tensor(values)
    return values.numpy() if isinstance(values, Tensor) else values
