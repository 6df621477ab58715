"""Forecasts what training, evaluation and sampling will cost."""

from collections.abc import Iterator
from pathlib import Path

from spn import planning
from spn.config import Params
from spn.machine import total_bytes
from spn.paths import DATA
from spn.pipeline.place import choose_device
from spn.planning.images import count_images


def plan(
    params: Params,
    data: Path = DATA,
    *,
    recompute: bool = False,
    as_json: bool = False,
    device: str = "auto",
    threads: int = 1,
) -> Iterator[str]:
    """Forecast parameters, FLOPs, memory, sampling steps and times of every network, before anything runs.

    Yields the table and then warnings, or one JSON text. `data` is the folder of preprocessed files, if there are any.
    """
    place = choose_device(device, threads)
    images, memory = count_images(params, data), total_bytes(place)
    trainings = (training for name in params.trained_plans for training in params.trained(name).trainings)
    speeds = planning.measure_speeds(place, {training.precision for training in trainings})
    stages = planning.forecast(params, speeds, images, memory, recompute)
    if as_json:
        yield planning.plan_json(stages)
        return
    yield planning.plan_table(params, stages, images, place)
    yield from planning.warnings(params, stages, memory)
