"""Maximum likelihood training of one stage (Menick & Kalchbrenner 2018, Sec. 3.4).

The sum over a stage's slices is estimated by one uniformly drawn slice per image and step. Batches, slices and dropout
are functions of (seed, stage, step), so a resumed training repeats nothing and skips nothing: on a CPU with one thread
it ends with bit-identical weights.

The trials of a stage are trained one after the other, each under its own recipe, so that each has its own state to
resume from, and other trials may be added without training these again.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias

import torch
from torch import Tensor
from tqdm import tqdm

from spn.checkpoint import load_tensors, save_tensors
from spn.config import Params
from spn.data.hdf5 import SliceFile
from spn.distributed import agree, is_first
from spn.files import write_text
from spn.notes import FILES, RECIPE, Notes, content_digest, read_tensor_notes
from spn.paths import CHECKPOINT, HISTORY
from spn.provenance import Recipe, training_recipe, trial_recipe
from spn.training.history import Row, history_text
from spn.training.lock import state_path, training_lock
from spn.training.trainer import Observe, Trainer, progress_bar
from spn.training.trials import best_trial

Weights: TypeAlias = dict[str, Tensor]

ESTIMATE = "validation_bits_per_dim_estimate"

STALE = "as a shared file system may show old files to some nodes for a while"

FollowTrial: TypeAlias = Callable[[int], AbstractContextManager[Observe]]
"""Accompanies a trial, given by its number from 0, and returns what its rows are passed to."""


def unfollowed(trial: int) -> AbstractContextManager[Observe]:
    """Accompany a trial, and pass its rows to nobody."""
    return nullcontext(lambda row: None)


def train_stage(
    params: Params,
    name: str,
    data: SliceFile,
    output: Path,
    runs: Path,
    device: torch.device,
    observe: Observe = lambda row: None,
    compiled: bool = False,
    recompute: bool = False,
    micro_batch: int | None = None,
    follow_trial: FollowTrial = unfollowed,
) -> None:
    """Train stage `name` and write checkpoint.safetensors and history.csv to `output`.

    Trains nothing if `output` has a checkpoint of the same recipe; its history is inside, so history.csv may be
    missing. Resumes from the state of an earlier run of the recipe under `runs`. Passes every row of the history to
    `observe`, including those of earlier runs. `compiled`, `recompute` and `micro_batch` are explained at `Trainer`.
    Several processes (`spn.distributed`) train together, and the first of them writes.

    If the stage has trials, trains all of them and takes the one with the lowest last validation estimate: its weights
    and its history become the stage's. Each trial runs within `follow_trial`.

    Raises InputError if the data do not suit the stage or lack labels that it needs, FloatingPointError if a loss or
    gradient is not finite, and TerminatedError on SIGTERM, once the state is saved.
    """
    recipe = training_recipe(params, name, data.digest)
    checkpoint = output / CHECKPOINT
    notes = trained_notes(checkpoint, recipe)
    agree("checkpoint", notes is not None, STALE)
    weights: Weights | None = None
    if notes is not None:
        _pass_on(notes, observe, follow_trial)
    else:
        job = _Job(name, data, runs, device, compiled, recompute, micro_batch)
        if params.trained(name).trials:
            weights, notes = job.tune(params, follow_trial)
            for row in notes["history"]:
                observe(row)
        else:
            weights, history = job.train(params, recipe, observe)
            notes = {"history": history}
    if is_first():
        text = history_text(notes["history"])
        if weights is not None:
            files = {HISTORY: content_digest(text.encode())}
            save_tensors(checkpoint, weights, {RECIPE: recipe, FILES: files, **notes})
        write_text(output / HISTORY, text)


def trained_notes(checkpoint: Path, recipe: Recipe) -> Notes | None:
    """Return the notes in a checkpoint of exactly this recipe; None if there is no such checkpoint.

    Raises InputError if the checkpoint is damaged.
    """
    notes = load_tensors(checkpoint)[1] if checkpoint.exists() else {}
    return notes if notes.get(RECIPE) == recipe else None


def _pass_on(notes: Notes, observe: Observe, follow_trial: FollowTrial) -> None:
    """Pass on the rows in the notes of a checkpoint."""
    for number, trial in enumerate(notes.get("trials", [])):
        with follow_trial(number) as observe_trial:
            for row in trial["history"]:
                observe_trial(row)
    for row in notes["history"]:
        observe(row)


@dataclass(frozen=True)
class _Job:
    """The trainings of one stage: of what, where, and how."""

    name: str
    data: SliceFile
    runs: Path
    device: torch.device
    compiled: bool
    recompute: bool
    micro_batch: int | None

    def train(
        self,
        params: Params,
        recipe: Recipe,
        observe: Observe,
        label: str = "",
        bar: "tqdm[NoReturn] | None" = None,
    ) -> tuple[Weights, list[Row]]:
        """Train under one recipe, or resume; return the averaged weights and the history."""
        trainer = Trainer(
            params, self.name, self.data, recipe, self.device, self.compiled, self.recompute, self.micro_batch
        )
        trainer.label += label
        path = state_path(self.runs, recipe)
        if path.exists():  # resume where an earlier run stopped
            trainer.state.restore(path)
        else:
            trainer.initialise()
        agree("state of the training", trainer.state.step, STALE)
        for row in trainer.state.history:
            observe(row)
        trainer.advance(path, observe, bar)
        return trainer.state.average.model.state_dict(), trainer.state.history

    def tune(self, params: Params, follow_trial: FollowTrial) -> tuple[Weights, Notes]:
        """Train every trial; return the weights of the best, and what the checkpoint's notes say of all of them."""
        section = params.stages[self.name]
        recipes = [trial_recipe(params, self.name, trial, self.data.digest) for trial in range(len(section.trials))]
        done = sum(_steps_done(state_path(self.runs, recipe)) for recipe in recipes)
        weights: Weights = {}
        notes: list[Notes] = []
        with progress_bar(self.name, sum(trial.steps for trial in section.trials), done) as bar:
            for number, recipe in enumerate(recipes):
                single, label = params.with_trial(self.name, number), f", trial {number + 1} of {len(recipes)}"
                with training_lock(self.runs, recipe), follow_trial(number) as observe:
                    trained, history = self.train(single, recipe, observe, label, bar)
                notes.append({"changes": section.changes(number), ESTIMATE: history[-1][ESTIMATE], "history": history})
                best = best_trial([trial[ESTIMATE] for trial in notes])
                if best == number:
                    weights = trained
        return weights, {"trials": notes, "taken": best, "history": notes[best]["history"]}


def _steps_done(state: Path) -> int:
    """Return the steps that an earlier run did."""
    return int(read_tensor_notes(state)["step"]) if state.exists() else 0
