"""Encodes images by whole passes: the laws of all sub-pixels of a slice come from one pass of the network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped, UInt8
from torch import Tensor

from spn.codec.integer_law import integer_law
from spn.codec.rounding import OFFSETS, Grid
from spn.codec.stream import SymbolEncoder
from spn.codec.symbols import FREQUENCY_BITS, Symbol, symbols_of
from spn.generation.targets import Fill, fill_targets
from spn.image import split_slices
from spn.likelihood import Law
from spn.models import Context, Model
from spn.shapes import ByteSlices, Labels, Levels, Positions
from spn.stages import Stage

BLOCK = 1 << 11
"""Sub-pixels whose weights are computed at once: few, so that they stay in the cache."""

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
        self.grid = Grid(np.array([offset]), notes_edges=True)
        self._batches: list[list[tuple[InOrder, ...]]] = []

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
        encoder, ideal = SymbolEncoder(), 0.0
        for of_batches in zip(*self._batches, strict=True):
            # Step by step, and at each step image by image, over all batches.
            value, below, frequency, coded = (np.concatenate(each, axis=1) for each in zip(*of_batches, strict=True))
            chosen = [each[coded].astype(np.int64) for each in (value, below, frequency)]
            encoder.encode(Symbol(*chosen))
            ideal += FREQUENCY_BITS * len(chosen[0]) - float(np.log2(chosen[2]).sum())
        return Stream(self._offset, encoder.finish(), self._nats, ideal)

    def _fill(
        self, stage: Stage, network: Model, slices: ByteSlices, coded: Bool[Tensor, "batch S S height width 1"]
    ) -> Fill:
        def fill(position: tuple[int, int], positions: Positions, context: Context) -> Levels:
            target = stage.target(slices, positions)
            here = coded[:, position[0], position[1]].expand(target.shape)
            law = network(target, context)
            self._nats -= float(law.log_prob(target)[here].sum())
            symbols = law.by_chunk(self._symbols, target)
            here = here[..., None].expand(symbols.shape[:-1])
            self._batches[-1].append(tuple(map(_in_order, (*symbols.unbind(-1), here))))
            return target

        return fill

    def _symbols(self, law: Law, levels: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch symbol 3"]:
        """Return value, frequencies below and frequency of every symbol of the levels."""
        flat, parts = levels.flatten().numpy(), []
        for first in range(0, len(flat), BLOCK):
            part = slice(first, first + BLOCK)
            symbols = symbols_of(integer_law(law, self.grid, part), flat[part])
            parts.append(np.stack([np.stack(symbol, axis=-1) for symbol in symbols], axis=1).astype(np.int32))
        return torch.from_numpy(np.concatenate(parts)).view(*levels.shape, -1, 3)


def _in_order(each: Shaped[Tensor, "batch height width channel symbol"]) -> InOrder:
    """Put the images last."""
    return each.flatten(1).T.contiguous().numpy()
