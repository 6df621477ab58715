"""How fast chains are trained and sampled.

An image goes through every stage of a chain, so the seconds that an image takes add up over the stages. These figures
depend on the machine that did the work, not on a recipe alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Metrics = dict[str, Any]
History = Sequence[Mapping[str, int | float]]


def training_speed(stages: Iterable[tuple[History, int]]) -> Metrics:
    """Return a chain's seconds of training, and how many images a second all its stages together are trained on.

    Of each stage: its history, and its batch size. A training step takes one slice of each image of its batch.
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
    """Tell how many images a second a chain samples, from the timing.json of each of its stages.

    Tells nothing where one is missing: the samples were drawn on another machine, and came by `dvc pull`.
    """
    known = [(each["seconds"], each["images"]) for each in timings if each]
    if len(known) < len(timings):
        return {}
    return {"sampling_images_per_second": _images_per_second(known)}


def _images_per_second(work: Iterable[tuple[float, int]]) -> float:
    """Divide one image by the sum of what it takes, given (seconds, images) of each stage."""
    return 1 / sum(seconds / images for seconds, images in work)
