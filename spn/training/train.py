"""Maximum likelihood training of one stage (Menick & Kalchbrenner 2018, Sec. 3.4).

The sum over a stage's slices is estimated by one uniformly drawn slice per image and step. Batches, slices and dropout
are functions of (seed, stage, step), so a resumed training repeats nothing and skips nothing: on a CPU with one thread
it ends with the same weights, bit by bit.
"""

import csv
import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from spn.checkpoint import load_notes, save_tensors
from spn.config import InputError, Params
from spn.data.hdf5 import SliceFile
from spn.data.layout import Split
from spn.data.resident import ResidentSlices, send
from spn.layers import recompute_layers
from spn.likelihood import bits_per_dim
from spn.models import Model, build_model
from spn.provenance import Recipe, recipe_digest, stage_recipe
from spn.stages import Stage
from spn.training.batches import batch_indices, derive_seed, draw_positions, seeded
from spn.training.optimiser import Averaged, build_optimiser, learning_rate
from spn.training.run import Row, Run

Observe = Callable[[Row], None]

HISTORY = (
    "step",
    "train_bits_per_dim_estimate",
    "validation_bits_per_dim_estimate",
    "learning_rate",
    "gradient_norm",
    "images_per_second",
    "training_seconds",
)
"""Columns of history.csv. An estimate draws one slice per image: unbiased, and exact where a stage has one slice.

`training_seconds` are those of all steps so far, of earlier runs too, without validations and writing;
`images_per_second` is by the same clock, since the row before.
"""

ROWS = 100
"""Rows of the history between the first step and the last, beside those of validations."""

SAVE_SECONDS = 60
"""Most seconds of work that a kill can cost."""


def train(
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

    Trains nothing where `output` holds a checkpoint of the same recipe; the history is in it, so history.csv may be
    missing. Goes on from the state that an earlier run of the recipe left under `runs`. `observe` is given every row
    of the history, those of earlier runs included. `compiled` and `recompute` are the machine's affair: see `Trainer`.
    Raises InputError when the data are not the stage's, or lack the labels that it is told, and FloatingPointError when
    the loss is not finite.
    """
    recipe = stage_recipe(params, name, data.digest)
    checkpoint = output / "checkpoint.safetensors"
    if is_trained(output, recipe):
        history = load_notes(checkpoint)["history"]
        for row in history:
            observe(row)
    else:
        trainer = Trainer(params, name, data, recipe, device, compiled, recompute)
        state = runs / f"{name}-{recipe_digest(recipe)[:16]}.safetensors"
        if state.exists():
            trainer.run.restore(state)
        else:
            trainer.initialise()
        history = trainer.run.history
        for row in history:
            observe(row)
        trainer.advance(state, observe)
        weights = trainer.run.average.model.state_dict()
        save_tensors(checkpoint, weights, {"recipe": recipe, "history": history})
    _write_history(output / "history.csv", history)


def is_trained(output: Path, recipe: Recipe) -> bool:
    """Tell whether `output` holds a checkpoint of exactly this recipe."""
    checkpoint = output / "checkpoint.safetensors"
    return checkpoint.exists() and load_notes(checkpoint).get("recipe") == recipe


class Trainer:
    """The training loop of one stage.

    With `compiled` the network is compiled, which takes a minute or more before the first step; with `recompute` the
    activations within layers are made again on the way back, for less memory.
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
    ) -> None:
        section = params.stages[name]
        plan = params.stage_plans[name]
        if (data.scale_factor, tuple(data.cuts)) != (plan.scale_factor, plan.cuts):
            raise InputError(
                f"{data.path}: expected slices under S={plan.scale_factor} with bits cut at {list(plan.cuts)} "
                f"for stage {name}, got S={data.scale_factor} cut at {list(data.cuts)}"
            )
        if plan.num_classes:
            data.check_labels(plan.num_classes)
        self.name, self.seed, self.device = name, params.seed, device
        self.data = ResidentSlices(data, device)
        self.section = section.training
        self.stage = Stage(plan, params.data.shape, device)
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(params.seed, name, "weights"))
            model = build_model(section.model, self.stage.signature).to(device)
        self.model: Model = model
        self.run = Run(
            recipe, model, Averaged(model, self.section.ema_decay), build_optimiser(model, self.section.optimiser)
        )
        if recompute:
            recompute_layers(model)
        self._nats = self.stage.nats
        if compiled:
            # With torch's own random numbers, so that dropout is the same as without.
            self._nats = torch.compile(self.stage.nats, options={"fallback_random": True})
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._since = self._saved = time.monotonic()
        """When the clock of training was started, and when the state was saved."""

    def advance(self, state: Path, observe: Observe) -> None:
        """Train up to the last step, saving to `state` on the way."""
        section, run = self.section, self.run
        every = max(1, section.steps // ROWS)
        bar = tqdm(
            initial=run.step, total=section.steps, desc=self.name, unit="step", mininterval=1, dynamic_ncols=True
        )
        with torch.random.fork_rng(), bar:
            self._since = time.monotonic()
            while run.step < section.steps:
                self._pending.append(self.train_step())
                bar.update()
                is_last = run.step == section.steps
                validates = is_last or run.step % section.validate_every == 0
                saves = validates or time.monotonic() - self._saved > SAVE_SECONDS
                makes_row = validates or run.step % every == 0
                if not (makes_row or saves):
                    continue
                self._stop_clock()
                if makes_row:
                    row = self._row(validates)
                    run.history.append(row)
                    observe(row)
                    bar.set_postfix_str(_postfix(row))
                if saves:
                    run.save(state)
                    self._saved = time.monotonic()
                self._since = time.monotonic()

    @torch.no_grad()
    def initialise(self) -> None:
        """Let the first batch set what the family sets by data; to be called before the first step, and once."""
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self.seed, self.name, "initialisation"))
            slices, position, labels = self._batch(step=0)
            context = self.stage.context(slices, position, labels)
            self.model.initialise(self.stage.target(slices, position), context)
        self.run.average.model.load_state_dict(self.model.state_dict())

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Draw the images of a step, a slice of each, and give their classes where the stage is told of them."""
        size = self.section.batch_size
        indices = batch_indices(self.seed, step, self.data.num_images("train"), size)
        generator = seeded(self.seed, self.name, "slices", step)
        position = send(draw_positions(self.stage.targets, size, generator), self.device)
        return self.data.slices("train", indices), position, self._labels("train", indices)

    def train_step(self) -> tuple[Tensor, Tensor]:
        """Take one step; give its mean nats per drawn slice, and the norm of the gradient."""
        run, section, step = self.run, self.section, self.run.step
        torch.manual_seed(derive_seed(self.seed, self.name, "dropout", step))
        slices, position, labels = self._batch(step)
        for group in run.optimiser.param_groups:
            group["lr"] = learning_rate(section, step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=section.precision == "bfloat16"):
            nats = self._nats(self.model, slices, position, labels).mean()
        run.optimiser.zero_grad(set_to_none=True)
        (nats / slices[0, 0, 0].numel()).backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), section.clip_norm or float("inf"))
        run.optimiser.step()
        run.average.update(self.model, step)
        run.step += 1
        return nats.detach(), norm

    def _labels(self, split: Split, indices: Tensor) -> Tensor | None:
        """Give the classes of some images, where the stage is told of them."""
        return self.data.labels(split, indices) if self.stage.plan.num_classes else None

    def _stop_clock(self) -> None:
        """Wait for the pending steps, and count the seconds since the clock was started.

        This is the only place where training waits for the device.
        """
        self._check_finite()
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        self.run.seconds += time.monotonic() - self._since

    def _row(self, validates: bool) -> Row:
        """Summarise the steps since the last row."""
        run = self.run
        losses, norms = (torch.stack(values).mean().item() for values in zip(*self._pending, strict=True))
        before: Row = run.history[-1] if run.history else {"step": 0, "training_seconds": 0.0}
        images = (run.step - before["step"]) * self.section.batch_size
        row: Row = {
            "step": run.step,
            "train_bits_per_dim_estimate": self._bits_per_dim(losses),
            "learning_rate": learning_rate(self.section, run.step - 1),
            "gradient_norm": norms,
            "images_per_second": images / (run.seconds - before["training_seconds"]),
            "training_seconds": run.seconds,
        }
        if validates:
            row["validation_bits_per_dim_estimate"] = self.validate()
        self._pending.clear()
        return row

    def _check_finite(self) -> None:
        losses = torch.stack([loss for loss, _ in self._pending])
        if bad := (~losses.isfinite()).nonzero().flatten().tolist():
            step = self.run.step - len(losses) + bad[0] + 1
            raise FloatingPointError(f"stage {self.name}, step {step}: expected a finite loss, got {losses[bad[0]]}")

    def _bits_per_dim(self, nats_per_slice: float) -> float:
        return bits_per_dim(nats_per_slice * len(self.stage.targets), self.stage.image_dims)

    @torch.inference_mode()
    def validate(self) -> float:
        """Estimate the averaged weights' bits/dim on the validation split, always with the same slice per image."""
        parts, num_images = [], self.data.num_images("validation")
        generator = seeded(self.seed, self.name, "validation")
        size = 2 * self.section.batch_size
        for indices in torch.arange(num_images).split(size):
            slices, labels = self.data.slices("validation", indices), self._labels("validation", indices)
            position = send(draw_positions(self.stage.targets, len(indices), generator), self.device)
            parts.append(self.stage.nats(self.run.average.model, slices, position, labels))
        return self._bits_per_dim(torch.cat(parts).mean().item())


def _postfix(row: Row) -> str:
    text = f"{row['train_bits_per_dim_estimate']:.3f} bits/dim, {row['images_per_second']:.0f} images/s"
    validation = row.get("validation_bits_per_dim_estimate")
    return text if validation is None else f"{text}, validation {validation:.3f}"


def read_history(path: Path) -> list[Row]:
    """Read a history.csv; cells where nothing was measured are absent from their row."""
    with path.open(newline="") as file:
        return [
            {key: int(value) if key == "step" else float(value) for key, value in row.items() if value}
            for row in csv.DictReader(file)
        ]


def _write_history(path: Path, rows: list[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text.getvalue())
    os.replace(temporary, path)
