"""A first stage in training: it reconstructs whole images, and what it returns in place of nats is a loss.

The training loop, its state and its history are those of every network.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from spn.config import FirstStageSection, StagePlan, StageSection
from spn.first_stages import VqAutoencoder
from spn.shapes import Labels, Positions, Slices
from spn.stages.cells import Stage


class Reconstruction(Stage):
    """Whole images of all bits, of which the network makes codes, and images again."""

    figure = "loss"
    has_idle_weights = True
    """Those of the discriminator, before it starts."""

    def build_network(  # type: ignore[override]
        self, section: StageSection | FirstStageSection
    ) -> VqAutoencoder:
        """Build the auto-encoder, freshly initialised from torch's global generator."""
        assert isinstance(section, FirstStageSection)
        return VqAutoencoder(section, self.shape.channels, self.shape.num_levels)

    def initialise(  # type: ignore[override]
        self, model: VqAutoencoder, slices: Slices, position: Positions, labels: Labels | None = None
    ) -> None:
        """Draw the first codebook from a first batch."""
        model.initialise(self.target(slices, position))

    def loss(  # type: ignore[override]
        self, model: VqAutoencoder, slices: Slices, position: Positions, labels: Labels | None = None
    ) -> Float64[Tensor, " batch"]:
        """Return the loss of each image, as a sum over its sub-pixels."""
        of_images, _ = model.loss(self.target(slices, position), self.progress)
        return of_images.double() * self.image_dims

    def nats(  # type: ignore[override]
        self, model: VqAutoencoder, slices: Slices, position: Positions, labels: Labels | None = None
    ) -> Float64[Tensor, " batch"]:
        """Return the absolute error of each reconstruction in units of [-1, 1], as a sum over sub-pixels: no nats."""
        levels = self.target(slices, position)
        error = (model.decode(model.encode(levels)).double() - levels.double()).abs()
        return error.flatten(1).sum(1) * (2 / (self.shape.num_levels - 1))


def build(plan: StagePlan, shape: tuple[int, int, int], device: torch.device) -> Reconstruction:
    """Build the training of a first stage."""
    return Reconstruction(plan, shape, device)
