"""One step of training. The code digest of a training starts here, and covers everything that decides the weights.

Weights, batches, slices and dropout are functions of (seed, stage, step), so a resumed training ends like an
uninterrupted one.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from spn.config import Params
from spn.distributed import num_processes, rank, without_averaging
from spn.seeds import derive_seed, seeded
from spn.stages import build_stage
from spn.training.batches import batch_indices, draw_positions
from spn.training.ema import EmaModel
from spn.training.finite import Pending, gradient_norms, worst_gradient
from spn.training.optimiser import build_optimiser, learning_rate

Batch: TypeAlias = tuple[Tensor, Tensor, Tensor | None]
"""Slices of levels [batch, S, S, height, width, channel], the meta-positions of the targets among them, and the images'
classes if the stage is class-conditional."""

Nats: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Returns the nats of each image's target slice, given a batch."""


class Learner:
    """A model in training, with its optimiser and the EMA of its weights."""

    def __init__(self, params: Params, name: str, device: torch.device) -> None:
        self.name, self.seed, self._device = name, params.seed, device
        section = params.trained(name)
        self.section = section.training
        self.stage = build_stage(params.trained_plans[name], params.grid(name).shape, device)
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self.seed, name, "weights"))
            self.model = self.stage.build_network(section).to(device)
        # Listed once, because walking through all modules takes a hundredth of a small network's step.
        self._parameters = list(self.model.parameters())
        self.average = EmaModel(self.model, self.section.ema_decay)
        self.optimiser = build_optimiser(self.model, self.section.optimiser)

    @torch.no_grad()
    def initialise(self, batch: Batch) -> None:
        """Initialise the model from the first batch, if its family does so; called once, before the first step."""
        slices, position, labels = batch
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self.seed, self.name, "initialisation"))
            self.stage.initialise(self.model, slices, position, labels)
        self.average.model.load_state_dict(self.model.state_dict())

    def draw(self, step: int, num_images: int) -> tuple[Tensor, Tensor]:
        """Draw the images of a step, by index, and the target slice of each."""
        size = self.section.batch_size
        positions = draw_positions(self.stage.targets, size, seeded(self.seed, self.name, "slices", step))
        return batch_indices(self.seed, step, num_images, size), positions

    def take(self, step: int, batch: Batch, nats: Nats, micro_batch: int | None = None) -> Pending:
        """Take a step, counted from 0, on this process' share of its batch.

        Returns the loss on the share (nats per slice), the gradient's norm, and the parameter to blame if that is not
        finite. `nats` is `Stage.loss` of the model, with gradients averaged over the processes. With `micro_batch` so
        many images of a process are in memory at once, and gradients are added up: the same step, but for rounding and
        for the draws of dropout and noise.
        """
        section = self.section
        self.stage.progress = step / section.steps
        others = [rank()] if rank() else []
        torch.manual_seed(derive_seed(self.seed, self.name, "dropout", step, *others))
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(section, step) * group.get("relative_rate", 1.0)
        self.optimiser.zero_grad(set_to_none=True)
        *before, last = _parts(batch, section.batch_size, micro_batch)
        losses = []
        for part in before:
            with without_averaging(nats):
                losses.append(self._backward(part, nats))
        losses.append(self._backward(last, nats))
        norms = gradient_norms(self._parameters)
        norm = torch.linalg.vector_norm(norms)
        nn.utils.clip_grads_with_norm_(self._parameters, section.clip_norm or float("inf"), norm)
        self.optimiser.step()
        self.average.update(step)
        return torch.stack(losses).sum(), norm.double(), worst_gradient(norms)

    def _backward(self, part: Batch, nats: Nats) -> Tensor:
        """Add the gradients of a part of a batch; return what it adds to the loss."""
        slices, position, labels = part
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.section.precision == "bfloat16"):
            # Parts may differ by an image; with these weights, their losses add up to the mean over the batch.
            weight = len(slices) * num_processes() / self.section.batch_size
            loss = nats(slices, position, labels).mean() * weight
        (loss / slices[0, 0, 0].numel()).backward()
        return loss.detach()


def _parts(batch: Batch, batch_size: int, micro_batch: int | None) -> list[Batch]:
    """Cut a process' share of a batch into parts, of which all processes have the same number, none of them empty."""
    if micro_batch is None:
        return [batch]
    smallest, largest = batch_size // num_processes(), -(-batch_size // num_processes())
    count = max(1, min(-(-largest // micro_batch), smallest))
    slices, position, labels = batch
    of_labels = [None] * count if labels is None else labels.tensor_split(count)
    return list(zip(slices.tensor_split(count), position.tensor_split(count), of_labels, strict=True))
