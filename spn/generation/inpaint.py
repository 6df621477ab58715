"""Inpainting: a chain fills in hidden pixels, the others being known.

Every stage takes the known sub-pixels of its targets as they are, and draws the hidden ones. A stage of cells
conditions a hidden pixel on what comes before it, known or drawn, but not on known pixels that come after. A scale of a
diffusion sees the scale above as a whole, in which known pixels are as noised as the others: its context is
bidirectional, without any training on masks (ImageBART, Esser et al. 2021).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float64, UInt8
from torch import Tensor
from tqdm import tqdm

from spn.config.diffusion import Noise
from spn.console.bar import SHOWN_AFTER
from spn.diffusion import noised
from spn.generation.sample import SAMPLING_BATCH_SIZE
from spn.generation.samplers import SAMPLERS, Draw, choosing, forced, forcing
from spn.generation.targets import fill_targets
from spn.generation.uniforms import keyed_uniforms
from spn.image import join_slices, split_slices
from spn.models import Context, Model
from spn.shapes import ByteSlices, Labels, Levels, Positions
from spn.stages import Stage


def inpaint_chain_stage(
    stage: Stage,
    model: Model,
    before: UInt8[Tensor, "image height width channel"],
    known: UInt8[Tensor, "image height width channel"],
    hidden: Bool[Tensor, "image height width"],
    *,
    seed: int,
    temperature: float,
    top_k: int | None = None,
    batch_size: int = SAMPLING_BATCH_SIZE,
    labels: Labels | None = None,
    repeats: int = 1,
    sampler: str = "cached",
) -> UInt8[Tensor, "image height width channel"]:
    """Fill in the cells of one stage: the `hidden` pixels are drawn, the others are those of `known`.

    `before` has what earlier stages filled in, 0 before the first. The levels of hidden pixels in `known` do not
    count. Each scale of a diffusion but the last is drawn `repeats` times, after the hidden levels above it were
    noised anew (NOTE: ours; the paper says that several chains run per scale). With all pixels hidden and one repeat,
    this is `sample_chain_stage` without several processes; the other arguments are as there.
    """
    size, device = stage.plan.scale_factor, next(model.parameters()).device
    draw = SAMPLERS[sampler](model, forcing(choosing(temperature, top_k)))
    batches = torch.arange(len(known)).split(batch_size)
    is_repeated = stage.plan.noise is not None and not stage.plan.noise.is_last
    passes = len(batches) * len(stage.targets) * (repeats if is_repeated else 1)
    known, done = known * ~hidden[..., None], []
    with tqdm(total=passes, desc=stage.plan.name, unit="slice", dynamic_ncols=True, delay=SHOWN_AFTER) as bar:
        for images in batches:
            slices, given, hides = (
                split_slices(each[images], size).to(device) for each in (before, known, hidden[..., None])
            )
            classes = None if labels is None else labels[images].to(device)
            task = _Task(stage, draw, given, hides, images.tolist(), seed, classes, bar.update)
            done.append(join_slices(task.run(slices, repeats)).cpu())
    return torch.cat(done)


@dataclass(frozen=True)
class _Task:
    """One stage of an inpainting of a batch: its draw, and the known and hidden pixels of its slices."""

    stage: Stage
    draw: Draw
    known: ByteSlices
    hidden: Bool[Tensor, "batch S S height width 1"]
    images: Sequence[int]
    """The numbers of the images, on which what is drawn depends."""
    seed: int
    labels: Labels | None
    observe: Callable[[], object]
    """Called after each slice."""

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
            hidden, levels = self.hidden[:, position[0], position[1]], self.stage.target(known, positions)
            if hidden.any():  # else there is nothing to draw
                levels = self.draw(context, torch.where(hidden, self._uniforms(name, position), forced(levels)))
            self.observe()
            return levels

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
        return keyed_uniforms(self.seed, name, position, self.images, size).to(self.known.device)

    def _pairs(self, name: str) -> Float64[Tensor, "2 batch height width channel"]:
        return self._uniforms(name, _WHOLE, count=2).unflatten(1, (2, -1)).transpose(0, 1)


_WHOLE = (0, 0)
"""The only slice of a scale."""
