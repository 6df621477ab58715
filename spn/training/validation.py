"""Validation: an estimate of the bits/dim of the averaged weights on the validation split, or of a loss."""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from spn.data.resident import ResidentSlices, send
from spn.distributed import any_of, collect, num_processes, rank
from spn.likelihood import bits_per_dim
from spn.seeds import derive_seed, seeded
from spn.stages import Stage
from spn.training.batches import draw_positions
from spn.training.step import Learner

if TYPE_CHECKING:
    from spn.models import Model


@torch.inference_mode()
def estimate(learner: Learner, data: ResidentSlices, terminated: Callable[[], bool] = lambda: False) -> float | None:
    """Estimate the bits/dim of the EMA weights on the validation split, always with the same slice per image.

    The slices depend on neither the stage's name nor its training section, so that estimates of trials, and of stages
    of the same cells, can be compared. The noise of a bound is a function of the stage and the batches, so that a
    training that was killed has the rows of one that was not. Returns None if a process is `terminated` meanwhile.
    """
    stage, model = learner.stage, cast("Model", learner.average.model)
    num_images, batch_size = data.num_images("validation"), 2 * learner.section.batch_size
    images = torch.arange(num_images)
    positions = draw_positions(stage.targets, num_images, seeded(learner.seed, "validation"))
    batches = list(zip(images.split(batch_size), positions.split(batch_size), strict=True))
    parts: list[Tensor] = []
    for first in range(0, len(batches), num_processes()):
        if any_of(terminated())[0]:
            return None
        for indices, position in batches[first + rank() : first + rank() + 1]:
            labels = data.labels("validation", indices) if stage.plan.num_classes else None
            slices = data.slices("validation", indices)
            with torch.random.fork_rng([slices.device] if slices.is_cuda else []):
                torch.manual_seed(derive_seed(learner.seed, learner.name, "validation", int(indices[0])))
                nats = stage.nats(model, slices, send(position, slices.device), labels)
            parts.append(nats.cpu())  # because another process may have another device
    return figure_of_image(stage, torch.cat(collect(parts)).mean().item())


def figure_of_image(stage: Stage, total: float) -> float:
    """Return the bits/dim of images, of which a slice has `total` nats in the mean over the stage's slices.

    Of a first stage, whose `total` is a sum over sub-pixels, return the mean over these.
    """
    if stage.figure == "bits_per_dim":
        return bits_per_dim(total * len(stage.targets), stage.image_dims)
    return total / stage.image_dims
