"""Arguments of a chain in memory: their types; stages, temperatures and labels, checked and in full."""

import operator
from collections.abc import Mapping, Sequence
from math import inf
from numbers import Real
from typing import Any, SupportsIndex, TypedDict, cast

import numpy as np
import torch

from spn.api.arrays import Array
from spn.config import ChainSection, InputError, Params
from spn.generation.sample import sample_labels
from spn.shapes import Labels

Label = SupportsIndex | str | Sequence[SupportsIndex | str] | Array
"""A class, by its number or name, or a caption, of all images; or a class for each image."""


class SampleOptions(TypedDict, total=False):
    """The options of `ChainModel.sample_stages`, which explains them."""

    seed: int
    temperature: float | Mapping[str, float] | None
    label: Label | None
    batch_size: int
    device: str | torch.device | None
    exact: bool
    given: Array | None
    stages: Sequence[str] | None


class ScoreOptions(TypedDict, total=False):
    """The options of `ChainModel.nats`, which explains them."""

    label: Label | None
    batch_size: int
    exact: bool


class EncodeOptions(TypedDict, total=False):
    """The options of `spn.api.coding.encode`, which explains them."""

    names: Sequence[str]
    greys: Sequence[int]
    in_tiles: bool
    images_per_stream: int
    batch_size: int


def whole_number(name: str, value: SupportsIndex) -> int:
    """Return an argument as an int; raise InputError, naming it, if it is no whole number."""
    try:
        return operator.index(value)
    except TypeError as error:
        raise InputError(f"{name}: expected a whole number, got {value!r}") from error


def positive(name: str, value: SupportsIndex) -> int:
    """Return an argument as a positive int; raise InputError, naming it, if it is none."""
    if (number := whole_number(name, value)) < 1:
        raise InputError(f"{name}: expected a positive whole number, got {number}")
    return number


def stage_names(stages: Sequence[str] | None, every: list[str]) -> list[str]:
    """Return the stages to run, by default all; raise InputError unless they are neighbours in the chain's order."""
    names = every if stages is None else list(stages)
    first = every.index(names[0]) if names and names[0] in every else 0
    if not names or every[first : first + len(names)] != names:
        raise InputError(f"stages: expected neighbours of {', '.join(every)}, in this order, got {', '.join(names)}")
    return names


def temperatures_of(section: ChainSection, temperature: float | Mapping[str, float] | None) -> dict[str, float]:
    """Return the temperature of every stage: that of all, those of some, or the chain's own.

    Raises InputError for another stage, or a number that is not positive.
    """
    own = {name: section.temperature_of(name) for name in section.stages}
    if temperature is None:
        return own
    asked = temperature if isinstance(temperature, Mapping) else dict.fromkeys(section.stages, temperature)
    for name, value in asked.items():
        if name not in own:
            raise InputError(f"temperature: expected one of {', '.join(own)}, got {name}")
        if not isinstance(value, Real) or not 0 < value < inf:
            raise InputError(f"temperature: expected a positive number for {name}, got {value!r}")
    return own | dict(asked)


def labels_of(params: Params, chain: str, count: int, label: Label | None, is_sampling: bool) -> Labels | None:
    """Return what each of `count` images is conditioned on; None for a chain that is conditioned on nothing.

    Samples take the classes in turn unless told; images to score must be told. Raises InputError for other labels.
    """
    num_classes = params.num_classes(chain)
    if label is None:
        if num_classes and not is_sampling:
            raise InputError(f"label: expected the classes of the images, because {chain} is conditioned on them")
        return sample_labels(count, num_classes)
    if not num_classes:
        raise InputError(f"label: expected none, because {chain} is conditioned on no class, got {label}")
    if is_of_all(label):
        return sample_labels(count, num_classes, _label(params, chain, label))
    each = [_label(params, chain, one) for one in cast(Sequence[Any], label)]
    if len(each) != count or not all(isinstance(one, int) for one in each):
        raise InputError(f"label: expected a class for each of {count} images, got {len(each)}")
    return torch.tensor(each)


def is_of_all(label: Any) -> bool:
    """Tell whether a label is that of all images: a text or one number, and no sequence or array with axes."""
    return np.ndim(label) == 0


def _label(params: Params, chain: str, label: Any) -> int | tuple[int, ...]:
    """Return a class, or the tokens of a caption that is no class's name."""
    if isinstance(label, str):
        try:
            return params.label_of(chain, label)
        except InputError as error:
            raise InputError(f"label: {error}") from error
    try:
        number = operator.index(label)
    except TypeError as error:
        raise InputError(f"label: expected whole numbers or names, got {label}") from error
    if number not in range(num_classes := params.num_classes(chain)):
        raise InputError(f"label: expected one of the classes 0 to {num_classes - 1}, got {number}")
    return number
