"""Inpainting: a chain fills in hidden pixels, the others being known.

Every stage takes the known sub-pixels of its targets as they are, and draws the hidden ones. A stage of cells
conditions a hidden pixel on what comes before it, known or drawn, but not on known pixels that come after. A scale of a
diffusion sees the scale above as a whole, in which known pixels are as noised as the others: its context is
bidirectional, without any training on masks (ImageBART, Esser et al. 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float64, UInt8
from torch import Tensor

from spn.config.diffusion import Noise
from spn.diffusion import noised
from spn.generation.samplers import Draw, forced
from spn.generation.targets import fill_targets
from spn.generation.uniforms import keyed_uniforms
from spn.image import join_slices, split_slices
from spn.models import Context
from spn.shapes import ByteSlices, Labels, Levels, Positions
from spn.stages import Stage


def inpaint(
    parts: Sequence[tuple[Stage, Draw]],
    images: UInt8[Tensor, "image height width channel"],
    hidden: Bool[Tensor, "image height width"],
    seed: int,
    repeats: int = 1,
    labels: Labels | None = None,
) -> UInt8[Tensor, "image height width channel"]:
    """Fill in the `hidden` pixels of images; their own levels do not count, and all other pixels stay as they are.

    `parts` are the stages of a chain, with draws that accept forced levels (`forcing`). Each scale of a diffusion but
    the last is drawn `repeats` times, after the hidden levels above it were noised anew (NOTE: ours; the paper says
    that several chains run per scale). With all pixels hidden and one repeat, this is the chain's sample.
    """
    current = torch.zeros_like(images)
    known = images * ~hidden[..., None]
    for stage, draw in parts:
        size = stage.plan.scale_factor
        task = _Task(stage, draw, split_slices(known, size), split_slices(hidden[..., None], size), seed, labels)
        current = join_slices(task.run(split_slices(current, size), repeats))
    return current


@dataclass(frozen=True)
class _Task:
    """One stage of an inpainting: its draw, and the known and hidden pixels of its slices."""

    stage: Stage
    draw: Draw
    known: ByteSlices
    hidden: Bool[Tensor, "batch S S height width 1"]
    seed: int
    labels: Labels | None

    @torch.inference_mode()
    def run(self, slices: ByteSlices, repeats: int) -> ByteSlices:
        """Fill in the stage's cells, given those of the stages before."""
        stage, noise = self.stage, self.stage.plan.noise
        if noise is None:
            return self._fill(slices, self.known, stage.plan.name)
        known = self._known_at(noise)
        filled = self._fill(slices, known, stage.plan.name)
        for repeat in range(1, 1 if noise.is_last else repeats):
            name = f"{stage.plan.name}, again {repeat}"
            filled = self._fill(self._noised_again(filled, slices, noise, name), known, name)
        return filled

    def _fill(self, slices: ByteSlices, known: ByteSlices, name: str) -> ByteSlices:
        """Draw every target slice, with its known levels forced."""

        def fill(position: tuple[int, int], positions: Positions, context: Context) -> Levels:
            hidden = self.hidden[:, position[0], position[1]]
            given = torch.where(hidden, self._uniforms(name, position), forced(self.stage.target(known, positions)))
            return self.draw(context, given)

        return fill_targets(self.stage, slices, fill, self.labels)

    def _known_at(self, noise: Noise) -> ByteSlices:
        """Return the known pixels at the scale that the stage generates; all stages of a schedule draw the same."""
        levels = self._levels(self.known)
        for scale in range(1, noise.scale):
            at_scale = replace(noise, scale=scale)
            levels = noised(levels, at_scale.survival, self._num_levels, *self._pairs(f"known at scale {scale}"))
        return self.stage.insert(self.known, _WHOLE, levels)

    def _noised_again(self, filled: ByteSlices, slices: ByteSlices, noise: Noise, name: str) -> ByteSlices:
        """Draw the hidden levels of the scale above from those just generated."""
        above = noised(self._levels(filled), noise.survival, self._num_levels, *self._pairs(f"noise of {name}"))
        return self.stage.insert(slices, _WHOLE, torch.where(self.hidden[:, 0, 0], above, self._levels(slices)))

    @property
    def _num_levels(self) -> int:
        return self.stage.plan.num_levels

    def _levels(self, slices: ByteSlices) -> Levels:
        return self.stage.target(slices, self.stage.positions(_WHOLE, len(slices), slices.device))

    def _uniforms(
        self, name: str, position: tuple[int, int], count: int = 1
    ) -> Float64[Tensor, "batch rows width channel"]:
        """Draw uniforms for a slice of each image, `count` of them one below the other."""
        shape = self.stage.shape
        size = (count * shape.height, shape.width, shape.channels)
        return keyed_uniforms(self.seed, name, position, range(len(self.known)), size).to(self.known.device)

    def _pairs(self, name: str) -> Float64[Tensor, "2 batch height width channel"]:
        return self._uniforms(name, _WHOLE, count=2).unflatten(1, (2, -1)).transpose(0, 1)


_WHOLE = (0, 0)
"""The only slice of a scale."""
