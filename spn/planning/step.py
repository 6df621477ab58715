"""One step of training on black images: `probe` times it, and `cost` counts it on tensors without values."""

import torch
from torch import nn

from spn.config import FirstStageSection, StageSection
from spn.layers import GatedLayer, recompute_layers
from spn.stages import Stage
from spn.training.optimiser import build_optimiser


class Step:
    """A network, its optimiser and one batch: a slice of each of `batch_size` images."""

    def __init__(
        self,
        stage: Stage,
        section: StageSection | FirstStageSection,
        batch_size: int,
        device: torch.device,
        recompute: bool = False,
    ) -> None:
        self.stage, self.training = stage, section.training
        with device:  # tensors without values cannot be moved to it afterwards
            self.model = stage.build_network(section)
        # As the papers draw them, which takes up to a tenth more: merged links are not linear in the batch size.
        for module in self.model.modules():
            if isinstance(module, GatedLayer):
                module.merges_link = False
        if recompute:
            recompute_layers(self.model)
        self.optimiser = build_optimiser(self.model, section.training.optimiser)
        scale_factor, shape = stage.plan.scale_factor, stage.shape
        self.slices = torch.zeros(
            (batch_size, scale_factor, scale_factor, shape.height, shape.width, shape.channels),
            dtype=torch.uint8,
            device=device,
        )
        classes = stage.plan.num_classes
        self.labels = torch.zeros(batch_size, dtype=torch.long, device=device) if classes else None
        # The last target, which has the most context; all targets cost the same.
        self.position = stage.positions(stage.targets[-1], batch_size, device)

    def loss(self) -> torch.Tensor:
        """Compute the mean loss of a slice."""
        half = self.training.precision == "bfloat16"
        with torch.autocast(self.slices.device.type, torch.bfloat16, enabled=half):
            return self.stage.loss(self.model, self.slices, self.position, self.labels).mean()

    def update(self, loss: torch.Tensor) -> None:
        """Run the backward pass and update the weights."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip_norm or float("inf"))
        self.optimiser.step()
