"""A chain that fills in what is hidden of images: one implementation for the workflow's rule and a chain in memory."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from spn.api.arrays import Images
from spn.evaluation.inpainting import hidden_codes
from spn.first_stages import VqAutoencoder
from spn.generation import inpaint_chain_stage
from spn.generation.sample import SAMPLING_BATCH_SIZE
from spn.models import Model
from spn.shapes import Labels
from spn.stages import Stage

Hidden = Bool[Tensor, "image height width"]
Codes = UInt8[Tensor, "image row column channel_"]
"""What a chain generates: images, or codes with one channel."""
LabelsOfDraws = Int[Tensor, "draw_of_image *word"]
Draws = UInt8[Tensor, "draw image height width channel"]


@dataclass(frozen=True)
class Filler:
    """A chain, and how it draws."""

    stages: Mapping[str, tuple[Stage, Model]]
    temperatures: Mapping[str, float]
    top_k: Mapping[str, int]
    first_stage: VqAutoencoder | None
    grey: int
    """The level of hidden pixels that an encoder sees."""
    seed: int
    batch_size: int = SAMPLING_BATCH_SIZE
    exact: bool = False
    """Whether to compute in float64."""

    def fill(self, images: Images, hidden: Hidden, draws: int, repeats: int, labels: Labels | None) -> Draws:
        """Fill in the hidden pixels of each image several times; the levels of hidden pixels do not count.

        Draw d of image i depends on the seed and d * N + i.
        """
        # Hidden pixels are grey before encoding, or known codes would tell of them.
        known = encode(self.first_stage, torch.where(hidden[..., None], self.grey, images).to(torch.uint8))
        hides = hidden_codes(hidden, self.first_stage.section.downsampling) if self.first_stage else hidden
        known, hides = known.repeat(draws, 1, 1, 1), hides.repeat(draws, 1, 1)
        filled = self.run(list(self.stages), torch.zeros_like(known), known, hides, repeats, repeat(labels, draws))
        drawn = decode(self.first_stage, filled).unflatten(0, (draws, -1))
        return torch.where(hidden[..., None], drawn, images)

    def draw(self, names: Sequence[str], before: Images, labels: Labels | None) -> Images:
        """Draw the cells of some stages, given images with what the stages before them generated."""
        return self.run(names, before, before, torch.ones(before.shape[:3], dtype=torch.bool), 1, labels)

    def run(
        self,
        names: Sequence[str],
        before: Codes,
        known: Codes,
        hidden: Hidden,
        repeats: int,
        labels: Labels | None,
    ) -> Codes:
        """Run stages of the chain one after another; the arguments are those of `inpaint_chain_stage`."""
        for name in names:
            stage, network = self.stages[name]
            before = inpaint_chain_stage(
                stage,
                copy.deepcopy(network).double() if self.exact else network,
                before,
                known,
                hidden,
                seed=self.seed,
                temperature=self.temperatures[name],
                top_k=self.top_k.get(name),
                batch_size=self.batch_size,
                labels=labels,
                repeats=repeats,
            )
        return before


def repeat(labels: Labels | None, draws: int) -> LabelsOfDraws | None:
    """Repeat the labels of images for several draws of each, as `Filler.fill` orders them."""
    return None if labels is None else torch.cat([labels] * draws)


def encode(first_stage: VqAutoencoder | None, levels: Images, batch_size: int = SAMPLING_BATCH_SIZE) -> Codes:
    """Return what a chain generates, on the CPU: the codes of images, or without a first stage the images."""
    if first_stage is None:
        return levels
    device = next(first_stage.parameters()).device
    codes = [first_stage.encode(part.to(device).long()).cpu() for part in levels.split(batch_size)]
    return torch.cat(codes).to(torch.uint8)[..., None]


def decode(first_stage: VqAutoencoder | None, codes: Codes) -> Images:
    """Return the images that a chain generated, on the CPU: those of its codes, if there is a first stage."""
    if first_stage is None:
        return codes
    device = next(first_stage.parameters()).device
    parts = codes[..., 0].split(SAMPLING_BATCH_SIZE)
    return torch.cat([first_stage.decode(part.to(device).long()).cpu() for part in parts])
