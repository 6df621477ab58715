"""The classes of sampled images: which are asked for, and that all stages of a chain sample the same."""

from pathlib import Path
from typing import TYPE_CHECKING

from spn.config import InputError, Params

if TYPE_CHECKING:
    from torch import Tensor


def choose_labels(params: Params, chain: str, only: int | None = None) -> "Tensor | None":
    """Choose the class of every image that a chain samples; None where none of its stages is told of classes.

    `only` is the option --class, which takes the place of sampling.class.
    """
    from spn.generation.sample import sample_labels

    num_classes = max(plan.num_classes for plan in params.plans[chain])
    if only is not None and not num_classes:
        raise InputError(f"--class: expected a chain with a stage that is class_conditional, got {chain}")
    if only is not None and only not in range(num_classes):
        raise InputError(f"--class: expected one of the classes 0 to {num_classes - 1}, got {only}")
    asked = params.sampling.class_ if only is None else only
    return sample_labels(params.sampling.num_images, num_classes, asked) if num_classes else None


def check_sampled_labels(path: Path, expected: "Tensor | None") -> None:
    """Raise InputError unless the samples in a file are of the classes expected."""
    from spn.data.hdf5 import read_image_labels

    found = read_image_labels(path)
    wanted, actual = (None if each is None else each.tolist() for each in (expected, found))
    if wanted != actual:
        raise InputError(
            f"{path}: expected samples of {_name(wanted)}, got {_name(actual)}; "
            "sample it again, all stages of a chain with the same --class"
        )


def _name(labels: list[int] | None) -> str:
    if labels is None:
        return "no class"
    shown = labels[:1] if len(set(labels)) == 1 else labels[:4]
    return f"{len(labels)} images of class {', '.join(map(str, shown))}{', ...' * (len(shown) < len(set(labels)))}"
