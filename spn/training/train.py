"""Maximum likelihood training of one stage (Menick & Kalchbrenner 2018, Sec. 3.4).

The sum over a stage's slices is estimated by one uniformly drawn slice per image and step. Batches, slices and dropout
are functions of (seed, stage, step), so a resumed training repeats nothing and skips nothing: on a CPU with one thread
it ends with bit-identical weights.
"""

from pathlib import Path

import torch

from spn.checkpoint import load_tensors, save_tensors
from spn.config import Params
from spn.data.hdf5 import SliceFile
from spn.distributed import is_first
from spn.files import write_text
from spn.notes import FILES, RECIPE, content_digest
from spn.provenance import Recipe, stage_recipe
from spn.training.history import Row, history_text
from spn.training.lock import state_path
from spn.training.trainer import Observe, Trainer


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
) -> None:
    """Train stage `name` and write checkpoint.safetensors and history.csv to `output`.

    Trains nothing if `output` has a checkpoint of the same recipe; its history is inside, so history.csv may be
    missing. Resumes from the state of an earlier run of the recipe under `runs`. Passes every row of the history to
    `observe`, including those of earlier runs. `compiled` and `recompute` are explained at `Trainer`. Several processes
    (`spn.distributed`) train together, and the first of them writes.
    Raises InputError if the data do not suit the stage or lack labels that it needs, FloatingPointError if a loss or
    gradient is not finite, and TerminatedError on SIGTERM, once the state is saved.
    """
    recipe = stage_recipe(params, name, data.digest)
    checkpoint = output / "checkpoint.safetensors"
    history = trained_history(checkpoint, recipe)
    trainer = None
    if history is not None:
        for row in history:
            observe(row)
    else:
        trainer = Trainer(params, name, data, recipe, device, compiled, recompute)
        path = state_path(runs, recipe)
        if path.exists():  # resume where an earlier run stopped
            trainer.state.restore(path)
        else:
            trainer.initialise()
        history = trainer.state.history
        for row in history:
            observe(row)
        trainer.advance(path, observe)
    if is_first():
        text = history_text(history)
        if trainer is not None:
            weights = trainer.state.average.model.state_dict()
            files = {"history.csv": content_digest(text.encode())}
            save_tensors(checkpoint, weights, {RECIPE: recipe, FILES: files, "history": history})
        write_text(output / "history.csv", text)


def trained_history(checkpoint: Path, recipe: Recipe) -> list[Row] | None:
    """Return the history in a checkpoint of exactly this recipe; None if there is no such checkpoint.

    Raises InputError if the checkpoint is damaged.
    """
    notes = load_tensors(checkpoint)[1] if checkpoint.exists() else {}
    return notes["history"] if notes.get("recipe") == recipe else None
