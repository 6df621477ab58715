"""Training of one stage, recorded in MLflow."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spn import tracking
from spn.config import InputError, Params
from spn.distributed import is_first, joined, num_processes
from spn.machine import onednn_matmul
from spn.paths import CHECKPOINT, HANDLE, RUNS
from spn.pipeline.names import check_trained
from spn.pipeline.opening import open_slices
from spn.pipeline.place import choose_device, log_place
from spn.provenance import load_verb, recipe_digest, training_recipe, training_verb, trial_recipe
from spn.stages import build_stage
from spn.training import FollowTrial, Observe, train_stage, training_lock, unfollowed


def train(
    params: Params,
    stage: str,
    data: Path,
    output: Path,
    *,
    experiment: Path = HANDLE,
    runs: Path = RUNS,
    compiled: bool = False,
    recompute: bool = False,
    micro_batch: int | None = None,
    device: str = "auto",
    threads: int = 1,
) -> Path:
    """Train one stage, or resume a killed training; return the path of the checkpoint in `output`.

    A stage with trials is trained once for each of them, and the best by its validation estimate is taken. Returns at
    once if that checkpoint already has the right recipe. A training resumes from its state under `runs`
    (`train_stage`). On SIGTERM it saves its state and raises TerminatedError. Raises what `train_stage` raises.
    """
    check_trained(params, stage)
    if micro_batch is not None and stage in params.first_stages:
        raise InputError(
            f"--micro-batch: expected a stage, got the first stage {stage}, whose losses are of whole batches"
        )
    place = choose_device(device, threads)
    if compiled and place.type == "cpu":
        _check_compiler()
    # Load all code before waiting for the lock, so that the digest in the recipe is that of the code that will run.
    load_verb(training_verb(params, stage), params.trained(stage))
    params, slices = open_slices(params, stage, data)
    recipe = training_recipe(params, stage, slices.digest)
    checkpoint = output / CHECKPOINT
    with joined(recipe_digest(recipe)):
        _check_batches(params, stage)
        with (
            training_lock(runs, recipe),
            onednn_matmul(place),
            _recorded(params, stage, slices.digest, experiment, checkpoint) as (observe, follow),
        ):
            log_place(stage, place)
            train_stage(params, stage, slices, output, runs, place, observe, compiled, recompute, micro_batch, follow)
    return checkpoint


def _check_compiler() -> None:
    """Raise InputError unless torch.compile will find the C++ compiler that it needs for a CPU."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise InputError(f"--compile: expected a C++ compiler, found no {compiler} (the variable CXX names another)")


def _check_batches(params: Params, stage: str) -> None:
    """Raise InputError unless every batch has an image for each process."""
    smallest = min(each.batch_size for each in params.trained(stage).trainings)
    if smallest < num_processes():
        kind = "first_stages" if stage in params.first_stages else "stages"
        raise InputError(
            f"{kind}.{stage}.training.batch_size: expected at least the number of processes, {num_processes()}, got "
            f"{smallest}"
        )


@contextmanager
def _recorded(
    params: Params, stage: str, data_digest: str, experiment: Path, checkpoint: Path
) -> Iterator[tuple[Observe, FollowTrial]]:
    """Record a training and its trials in MLflow; only the first process does."""
    if not is_first():
        yield lambda row: None, unfollowed
        return
    section, recipe = params.trained(stage), training_recipe(params, stage, data_digest)
    count = build_stage(params.trained_plans[stage], params.grid(stage).shape).num_parameters(section)
    store = tracking.open_experiment(experiment, params.data.name)
    with tracking.StageRun(store, stage, recipe, num_parameters=count, checkpoint=checkpoint, is_training=True) as run:

        @contextmanager
        def follow_trial(number: int) -> Iterator[Observe]:
            recipe = trial_recipe(params, stage, number, data_digest)
            trial = tracking.Trial(run.run_id, number, params.stages[stage].trial_text(number))
            with tracking.StageRun(
                store, stage, recipe, num_parameters=count, trial=trial, is_training=True
            ) as trial_run:
                yield trial_run.measured

        yield run.measured, follow_trial
