"""Speeds of training and sampling of chains.

An image goes through every stage of a chain, so seconds per image add up over the stages. These figures depend on the
machine.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Metrics = dict[str, Any]
History = Sequence[Mapping[str, int | float]]


def training_speed(stages: Iterable[tuple[History, int]]) -> Metrics:
    """Return a chain's seconds of training, and images per second through all its stages.

    `stages` has the history and the batch size of each. A training step takes one slice of each image of its batch.
    """
    trained = [
        (float(history[-1]["training_seconds"]), int(history[-1]["step"]) * batch_size)
        for history, batch_size in stages
    ]
    return {
        "training_seconds": sum(seconds for seconds, _ in trained),
        "training_images_per_second": _images_per_second(trained),
    }


def sampling_speed(timings: Sequence[Mapping[str, Any]]) -> Metrics:
    """Return a chain's sampled images per second, from the timing.json of each stage.

    Returns nothing if one is missing: `dvc pull` then brought the samples from another machine.
    """
    known = [(each["seconds"], each["images"]) for each in timings if each]
    if len(known) < len(timings):
        return {}
    return {"sampling_images_per_second": _images_per_second(known)}


def _images_per_second(work: Iterable[tuple[float, int]]) -> float:
    """Return images per second through all stages, given (seconds, images) of each."""
    return 1 / sum(seconds / images for seconds, images in work)
