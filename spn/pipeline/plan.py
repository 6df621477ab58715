"""Forecasts what training, evaluation and sampling will cost."""

from collections.abc import Iterator
from pathlib import Path

from spn import planning
from spn.config import InputError, Params
from spn.paths import DATA
from spn.pipeline.place import choose_device
from spn.planning.images import count_images


def plan(
    params: Params,
    data: Path = DATA,
    *,
    recompute: bool = False,
    as_json: bool = False,
    gpu: str | None = None,
    num_gpus: int = 1,
    device: str = "auto",
    threads: int = 1,
) -> Iterator[str]:
    """Forecast parameters, FLOPs, memory, sampling steps and times of every network, before anything runs.

    Yields the table and then warnings, or one JSON text. `data` is the folder of preprocessed files, if there are any.
    With `gpu` the plan is not for this machine but for `num_gpus` GPUs of that name, each of which takes its share of
    every batch. Raises InputError for GPUs that are not known, or a number of them without a name.
    """
    images, machine = count_images(params, data), _machine(params, gpu, num_gpus, device, threads)
    stages = planning.forecast(params, machine.speeds, images, machine.memory, recompute, machine.num_gpus)
    if as_json:
        yield planning.plan_json(stages)
        return
    yield planning.plan_table(params, stages, images, machine)
    yield from planning.warnings(params, stages, machine)


def _machine(params: Params, gpu: str | None, num_gpus: int, device: str, threads: int) -> planning.Machine:
    if gpu is not None:
        return planning.stated_gpus(gpu, num_gpus)
    if num_gpus > 1:
        raise InputError(f"--gpus: expected --gpu with the name of the {num_gpus} GPUs, got none")
    trainings = (training for name in params.trained_plans for training in params.trained(name).trainings)
    return planning.this_machine(choose_device(device, threads), {training.precision for training in trainings})
