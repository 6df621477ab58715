"""The training loop of a stage: steps, rows of the history, validation, and saving the state for resuming."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from spn.config import Params
from spn.data.hdf5 import SliceFile
from spn.data.layout import Split
from spn.data.resident import ResidentSlices, send
from spn.distributed import any_of, is_first, mean, share
from spn.layers import recompute_layers
from spn.provenance import Recipe
from spn.training.finite import Pending, check_finite
from spn.training.history import Row
from spn.training.optimiser import learning_rate
from spn.training.parallel import parallel_nats
from spn.training.saving import Saver
from spn.training.state import TrainingState
from spn.training.step import Batch, Learner
from spn.training.termination import TerminatedError, noting_sigterm
from spn.training.validation import estimate, figure_of_image

Observe = Callable[[Row], None]

ROWS = 100
"""Number of rows of the history, beside those of validations."""

SAVE_SECONDS = 60
"""Maximum time between saves: the most work that a kill can cost."""


class Trainer:
    """The training loop of one stage.

    `compiled` compiles the network, which takes a minute or more before the first step. `recompute` saves memory by
    computing the activations within layers again in the backward pass (activation checkpointing), `micro_batch` by
    adding up gradients of so many images of a process at a time.
    """

    def __init__(
        self,
        params: Params,
        name: str,
        data: SliceFile,
        recipe: Recipe,
        device: torch.device,
        compiled: bool = False,
        recompute: bool = False,
        micro_batch: int | None = None,
    ) -> None:
        section = params.trained(name)
        plan = params.trained_plans[name]
        data = data.of(plan)
        if plan.num_classes:
            data.check_labels(plan.num_classes)
        self.device = device
        self.label = name
        """What the progress bar and messages call this training."""
        self.data = ResidentSlices(data, device)
        self.section = section.training
        self._micro_batch = micro_batch
        self.learner = learner = Learner(params, name, device)
        self.stage, self.model = learner.stage, learner.model
        self.state = TrainingState(recipe, learner.model, learner.average, learner.optimiser)
        if recompute:
            recompute_layers(self.model)
        self._saver = Saver()
        self._nats = parallel_nats(self.stage, self.model, device, compiled)
        self._since = self._saved = time.monotonic()
        """Times at which the clock of training was started and the state was saved."""

    def advance(self, path: Path, observe: Observe, bar: "tqdm[NoReturn] | None" = None) -> None:
        """Train up to the last step, saving to `path` on the way; on SIGTERM save and raise TerminatedError.

        `bar` shows these steps among others; by default they have a progress bar of their own.
        """
        section, state = self.section, self.state
        shown = progress_bar(self.label, section.steps, state.step) if bar is None else nullcontext(bar)
        with torch.random.fork_rng(), shown as bar, noting_sigterm() as terminated, self._saver:
            bar.set_description(self.label, refresh=False)
            self._since = time.monotonic()
            while state.step < section.steps or self._owes_row():
                if self._owes_row():
                    row = self._make_row(terminated)
                    if row is not None:
                        observe(row)
                        bar.set_postfix_str(_postfix(row, self.stage.figure))
                    saves = self._validates()
                else:
                    state.pending.append(self.train_step())
                    bar.update()
                    saves = False
                stops, overdue = any_of(terminated(), is_first() and time.monotonic() - self._saved > SAVE_SECONDS)
                if saves or stops or overdue:
                    self._save(path)
                if stops:
                    raise TerminatedError(f"stage {self.label}: stopped by SIGTERM and saved after step {state.step}")

    def _validates(self) -> bool:
        """Tell whether validation follows the step just done."""
        return self.state.step == self.section.steps or self.state.step % self.section.validate_every == 0

    def _owes_row(self) -> bool:
        """Tell whether the history lacks a row for the step just done."""
        state, every = self.state, max(1, self.section.steps // ROWS)
        is_due = state.step > 0 and (self._validates() or state.step % every == 0)
        return is_due and not (state.history and state.history[-1]["step"] == state.step)

    def _make_row(self, terminated: Callable[[], bool]) -> Row | None:
        """Add a row to the history; None if SIGTERM interrupted validation: the row is written after resuming."""
        self._stop_clock()
        row = self._row()
        if self._validates():
            validation = self.validate(terminated)
            self._since = time.monotonic()
            if validation is None:
                return None
            row[f"validation_{self.stage.figure}_estimate"] = validation
        self.state.history.append(row)
        self.state.pending.clear()
        return row

    def _save(self, path: Path) -> None:
        self._stop_clock()
        if self.state.pending:
            # Losses over whole batches, because another number of processes may resume.
            _, norms, culprits = zip(*self.state.pending, strict=True)
            self.state.pending = list(zip(self._losses(), norms, culprits, strict=True))
        if is_first():
            self.state.save(path, self._saver.write)
        self._saved = self._since = time.monotonic()

    def initialise(self) -> None:
        """Initialise the model from the first batch, if its family does so; called once, before the first step."""
        self.learner.initialise(self._batch(step=0, shared=False))

    def train_step(self) -> Pending:
        """Take one step and return its `Pending`, with the loss over this process' share only."""
        step = self.state.step
        pending = self.learner.take(step, self._batch(step), self._nats, self._micro_batch)
        self.state.step += 1
        return pending

    def _batch(self, step: int, shared: bool = True) -> Batch:
        """Draw the batch of a step.

        All processes draw the same batch; each returns its share of it, or the whole if not `shared`.
        """
        indices, positions = self.learner.draw(step, self.data.num_images("train"))
        if shared:
            indices, positions = share(indices), share(positions)
        return self.data.slices("train", indices), send(positions, self.device), self._labels("train", indices)

    def _labels(self, split: Split, indices: Tensor) -> Tensor | None:
        """Return the classes of some images; None if the stage is not class-conditional."""
        return self.data.labels(split, indices) if self.stage.plan.num_classes else None

    def _stop_clock(self) -> None:
        """Wait for the pending steps, check that they are finite, and add the seconds since the clock was started.

        Training waits for the device only here.
        """
        state = self.state
        if state.pending:
            check_finite(self.label, self.model, self._losses(), state.pending, state.step)
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        now = time.monotonic()
        state.seconds += now - self._since
        self._since = now

    def _row(self) -> Row:
        """Summarise the steps since the last row."""
        state = self.state
        norms = torch.stack([norm for _, norm, _ in state.pending]).mean().item()
        before: Row = state.history[-1] if state.history else {"step": 0, "training_seconds": 0.0}
        images = (state.step - before["step"]) * self.section.batch_size
        return {
            "step": state.step,
            f"train_{self.stage.figure}_estimate": figure_of_image(self.stage, self._losses().mean().item()),
            "learning_rate": learning_rate(self.section, state.step - 1),
            "gradient_norm": norms,
            "images_per_second": images / (state.seconds - before["training_seconds"]),
            "training_seconds": state.seconds,
        }

    def _losses(self) -> Tensor:
        """Return the loss of every pending step, over the whole batch."""
        return mean(torch.stack([loss for loss, _, _ in self.state.pending]))

    def validate(self, terminated: Callable[[], bool] = lambda: False) -> float | None:
        """Return `validation.estimate` of the EMA weights."""
        return estimate(self.learner, self.data, terminated)


def progress_bar(label: str, steps: int, done: int) -> "tqdm[NoReturn]":
    """Return a progress bar of so many steps, some of them done earlier."""
    return tqdm(
        initial=done,
        total=steps,
        desc=label,
        unit="step",
        mininterval=1,
        dynamic_ncols=True,
        disable=not is_first(),
    )


def _postfix(row: Row, figure: str) -> str:
    unit = {"bits_per_dim": "bits/dim"}.get(figure, figure)
    text = f"{row[f'train_{figure}_estimate']:.3f} {unit}, {row['images_per_second']:.0f} images/s"
    validation = row.get(f"validation_{figure}_estimate")
    return text if validation is None else f"{text}, validation {validation:.3f}"
