"""Encodes images by whole passes: the frequencies of all bits of a slice come from one pass of the network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped, UInt8
from torch import Tensor

from spn.codec.descent import FREQUENCY_BITS, depth_of, descend
from spn.codec.integer_law import integer_law
from spn.codec.rounding import OFFSETS, Grid
from spn.codec.stream import encode_bits
from spn.generation.targets import Fill, fill_targets
from spn.image import split_slices
from spn.likelihood import Law
from spn.models import Context, Model
from spn.shapes import ByteSlices, Labels, Levels, Positions
from spn.stages import Stage

BLOCK = 1 << 14
"""Sub-pixels whose weights are computed at once."""

Images: TypeAlias = UInt8[Tensor, "image height width channel"]
Known: TypeAlias = Bool[Tensor, "image height width"]
Parts: TypeAlias = Sequence[tuple[Stage, Model]]
InOrder: TypeAlias = Shaped[np.ndarray, "step image"]


@dataclass(frozen=True)
class Stream:
    """The coded bits of some images."""

    offset: int
    """The offset of rounding, 0 to 255."""
    content: bytes
    nats: float
    """-log p of what was coded, in nats."""
    ideal_bits: float
    """What the frequencies cost, in bits."""


def encode_images(
    parts: Parts,
    images: Images,
    known: Known,
    labels: Labels | None,
    batch_size: int,
    observe: Callable[[int], object] = lambda count: None,
) -> Stream:
    """Encode the pixels of images that are not `known` in one stream.

    `parts` are a chain's stages, with networks in float64 on the CPU. `batch_size` images pass through a network at
    once, which changes nothing; `observe` is called with their number. Raises RuntimeError if every offset rounds some
    value at an edge; fewer images then help.
    """
    offset = 0
    for _ in range(OFFSETS):
        encoder = _Encoder(offset)
        for batch in torch.arange(len(images)).split(batch_size):
            encoder.run(parts, images[batch], known[batch], None if labels is None else labels[batch])
            observe(len(batch))
        if encoder.grid.is_usable[offset]:
            return encoder.finish()
        observe(-len(images))  # once more, at an offset that suits all values
        usable = np.flatnonzero(encoder.grid.is_usable)
        if not len(usable):
            break
        offset = int(usable[0])
    raise RuntimeError(f"expected an offset of rounding for {len(images)} images, found none; encode fewer at once")


class _Encoder:
    """Collects bits and frequencies batch by batch, and puts them in the order in which a decoder needs them."""

    def __init__(self, offset: int) -> None:
        self._offset, self._nats = offset, 0.0
        self.grid = Grid(np.full((1, 1), offset), notes_edges=True)
        self._batches: list[list[tuple[InOrder, InOrder, InOrder]]] = []

    @torch.inference_mode()
    def run(self, parts: Parts, images: Images, known: Known, labels: Labels | None) -> None:
        """Pass a batch of images through all stages."""
        self._batches.append([])
        for stage, network in parts:
            size = stage.plan.scale_factor
            slices, coded = split_slices(images, size), split_slices(~known[..., None], size)
            fill_targets(stage, slices, self._fill(stage, network, slices, coded), labels)

    def finish(self) -> Stream:
        """Encode everything in one stream."""
        # Step by step, and at each step image by image, over all batches.
        slices = [
            tuple(np.concatenate(each, axis=1) for each in zip(*of_batches, strict=True))
            for of_batches in zip(*self._batches, strict=True)
        ]
        bits, frequencies = (
            np.concatenate([slice_[which][slice_[2]] for slice_ in slices]).astype(np.int64) for which in (0, 1)
        )
        chosen = np.where(bits, (1 << FREQUENCY_BITS) - frequencies, frequencies)
        ideal = FREQUENCY_BITS * len(bits) - float(np.log2(chosen).sum())
        return Stream(self._offset, encode_bits(bits, frequencies), self._nats, ideal)

    def _fill(
        self, stage: Stage, network: Model, slices: ByteSlices, coded: Bool[Tensor, "batch S S height width 1"]
    ) -> Fill:
        def fill(position: tuple[int, int], positions: Positions, context: Context) -> Levels:
            target = stage.target(slices, positions)
            here = coded[:, position[0], position[1]].expand(target.shape)
            law = network(target, context)
            self._nats -= float(law.log_prob(target)[here].sum())
            frequencies = law.by_chunk(self._frequencies, target)
            bits = (target[..., None] >> torch.arange(frequencies.shape[-1] - 1, -1, -1)) & 1
            self._batches[-1].append(
                (
                    _in_order(bits.to(torch.uint8)),
                    _in_order(frequencies.int()),
                    _in_order(here[..., None].expand(bits.shape)),
                )
            )
            return target

        return fill

    def _frequencies(self, law: Law, levels: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch bit"]:
        """Return the frequency of 0 of every bit of the levels."""
        flat = levels.flatten().numpy()
        parts = []
        for first in range(0, len(flat), BLOCK):
            part = slice(first, first + BLOCK)
            integers, found = integer_law(law, self.grid, part), []
            shifts = iter(range(depth_of(integers) - 1, -1, -1))

            def choose(frequency: Int[np.ndarray, " batch"]) -> Int[np.ndarray, " batch"]:
                found.append(frequency)  # noqa: B023
                return (flat[part] >> next(shifts)) & 1  # noqa: B023

            descend(integers, choose)
            parts.append(np.stack(found, axis=1))
        return torch.from_numpy(np.concatenate(parts)).view(*levels.shape, -1)


def _in_order(each: Shaped[Tensor, "batch height width channel bit"]) -> InOrder:
    """Put the images last."""
    return each.flatten(1).T.contiguous().numpy()
