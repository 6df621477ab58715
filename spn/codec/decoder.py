"""Decodes images by the cached walk: the walk of sampling, with a range decoder as the source of symbols."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from spn.codec.encoder import Images, Known, Parts
from spn.codec.integer_law import integer_law
from spn.codec.rounding import Grid, steps_of_run
from spn.codec.stream import SymbolDecoder
from spn.codec.symbols import level_of
from spn.generation import build_steps, walk
from spn.generation.targets import Fill, fill_targets
from spn.image import join_slices, split_slices
from spn.likelihood import Law
from spn.models import Context, Model
from spn.shapes import ByteSlices, Labels, Levels, Positions
from spn.stages import Stage

UNKNOWN = -1
"""Stands for the level of a pixel that is coded."""


class ImageDecoder:
    """Decodes a batch of images from one or more streams, stage after stage."""

    def __init__(self, streams: Sequence[bytes], offsets: Sequence[int], counts: Sequence[int]) -> None:
        """Start with the number of images of each stream (`counts`), and its offset of rounding."""
        self._decoder = SymbolDecoder(streams, counts)
        self._offsets, self._counts, self._step = np.array(offsets), counts, 0
        self._grid = Grid(np.repeat(self._offsets, counts))

    @torch.inference_mode()
    def run(
        self,
        parts: Parts,
        images: Images,
        known: Known,
        labels: Labels | None,
        observe: Callable[[], object] = lambda: None,
    ) -> Images:
        """Return images with the pixels decoded that are not `known`; `observe` is called after each step of the walk.

        `parts` are a chain's stages, with networks in float64 on the CPU. Damaged streams give wrong pixels.
        """
        current = images * known[..., None]
        given = current
        for stage, network in parts:
            size = stage.plan.scale_factor
            fill = self._fill(stage, network, split_slices(given, size), split_slices(known[..., None], size), observe)
            current = join_slices(fill_targets(stage, split_slices(current, size), fill, labels))
        return current

    def _fill(
        self,
        stage: Stage,
        network: Model,
        given: ByteSlices,
        known: Bool[Tensor, "batch S S height width 1"],
        observe: Callable[[], object],
    ) -> Fill:
        steps = build_steps(network, len(given))

        def choose(law: Law, given: Tensor) -> Tensor:
            observe()
            return self._choose(law, given)

        def fill(position: tuple[int, int], positions: Positions, context: Context) -> Levels:
            here = known[:, position[0], position[1]]
            return walk(steps, context, torch.where(here, stage.target(given, positions), UNKNOWN), choose)

        return fill

    def _choose(self, law: Law, given: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Return the given levels, decoding those that are unknown."""
        self._begin_step()
        levels = given.numpy()
        coded = np.flatnonzero(levels == UNKNOWN)
        if not len(coded):
            return given
        found = level_of(integer_law(law, self._grid), partial(self._decoder.decode, coded))
        return torch.from_numpy(np.where(levels == UNKNOWN, found, levels))

    def _begin_step(self) -> None:
        """Decode the offsets of the runs that begin here; those of the first come before the streams."""
        starts = [number for number, count in enumerate(self._counts) if self._step % steps_of_run(count) == 0]
        if self._step and starts:
            self._offsets[starts] = [self._decoder.decode_offset(number) for number in starts]
            self._grid = Grid(np.repeat(self._offsets, self._counts))
        self._step += 1
