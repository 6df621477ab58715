"""Encodes images by whole passes: the laws of all sub-pixels of a slice come from one pass of the network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64, Shaped, UInt8
from torch import Tensor

from spn.codec.integer_law import integer_law
from spn.codec.rounding import OFFSETS, Grid, steps_of_run
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
    """The offset of rounding of the first run, 0 to 255; those of the others are in the content."""
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
    once, which changes nothing; `observe` is called with their number. Raises RuntimeError if in some run every offset
    rounds a value at an edge; only a network that is made for it has such outputs.
    """
    steps = sum(images[0].numel() // stage.plan.scale_factor**2 * len(stage.targets) for stage, _ in parts)
    offsets = np.zeros(-(-steps // steps_of_run(len(images))), dtype=np.int64)
    while True:
        encoder = _Encoder(offsets, len(images))
        for batch in torch.arange(len(images)).split(batch_size):
            encoder.run(parts, images[batch], known[batch], None if labels is None else labels[batch])
            observe(len(batch))
        if encoder.is_usable[np.arange(len(offsets)), offsets].all():
            return encoder.finish()
        if not encoder.is_usable.any(1).all():
            raise RuntimeError("expected an offset of rounding for every run of sub-pixels, found none for one")
        observe(-len(images))  # once more, at offsets that suit all values
        offsets = encoder.is_usable.argmax(1)


class _Encoder:
    """Collects bits and frequencies batch by batch, and puts them in the order in which a decoder needs them."""

    def __init__(self, offsets: Int64[np.ndarray, " run"], num_images: int) -> None:
        self._offsets, self._steps_of_run, self._nats = offsets, steps_of_run(num_images), 0.0
        self.is_usable: Bool[np.ndarray, "run 256"] = np.ones((len(offsets), OFFSETS), dtype=bool)
        """Whether all values of each run keep their distance at each offset."""
        self._batches: list[list[tuple[InOrder, ...]]] = []
        self._num_steps: list[int] = []
        """Steps of every slice, in the order of coding."""

    @torch.inference_mode()
    def run(self, parts: Parts, images: Images, known: Known, labels: Labels | None) -> None:
        """Pass a batch of images through all stages."""
        self._batches.append([])
        self._num_steps = []
        for stage, network in parts:
            size = stage.plan.scale_factor
            slices, coded = split_slices(images, size), split_slices(~known[..., None], size)
            fill_targets(stage, slices, self._fill(stage, network, slices, coded), labels)

    def finish(self) -> Stream:
        """Encode everything in one stream."""
        encoder, ideal, step = SymbolEncoder(), 0.0, 0
        for num_steps, *of_batches in zip(self._num_steps, *self._batches, strict=True):
            # Step by step, and at each step image by image, over all batches.
            whole = [np.concatenate(each, axis=1) for each in zip(*of_batches, strict=True)]
            symbols_of_step, end = len(whole[0]) // num_steps, step + num_steps
            while step < end:
                run, after = divmod(step, self._steps_of_run)
                if run and not after:
                    encoder.encode_offset(int(self._offsets[run]))
                taken = min(end - step, self._steps_of_run - after)
                first = (step - end + num_steps) * symbols_of_step
                value, below, frequency, coded = (each[first : first + taken * symbols_of_step] for each in whole)
                chosen = [each[coded].astype(np.int64) for each in (value, below, frequency)]
                encoder.encode(Symbol(*chosen))
                ideal += FREQUENCY_BITS * len(chosen[0]) - float(np.log2(chosen[2]).sum())
                step += taken
        return Stream(int(self._offsets[0]), encoder.finish(), self._nats, ideal)

    def _fill(
        self, stage: Stage, network: Model, slices: ByteSlices, coded: Bool[Tensor, "batch S S height width 1"]
    ) -> Fill:
        def fill(position: tuple[int, int], positions: Positions, context: Context) -> Levels:
            target = stage.target(slices, positions)
            here = coded[:, position[0], position[1]].expand(target.shape)
            law = network(target, context)
            self._nats -= float(law.log_prob(target)[here].sum())
            steps = sum(self._num_steps) + torch.arange(target[0].numel()).view(target[0].shape)
            self._num_steps.append(steps.numel())
            runs = (steps // self._steps_of_run).expand(target.shape)
            symbols = law.by_chunk(self._symbols, target, runs)
            here = here[..., None].expand(symbols.shape[:-1])
            self._batches[-1].append(tuple(map(_in_order, (*symbols.unbind(-1), here))))
            return target

        return fill

    def _symbols(
        self, law: Law, levels: Int[Tensor, "*batch"], runs: Int[Tensor, "*batch"]
    ) -> Int[Tensor, "*batch symbol 3"]:
        """Return value, frequencies below and frequency of every symbol of the levels, each of which is in a run."""
        flat, runs_of, parts = levels.flatten().numpy(), runs.flatten().numpy(), []
        for first in range(0, len(flat), BLOCK):
            part = slice(first, first + BLOCK)
            grid = Grid(self._offsets[runs_of[part]], notes_edges=True)
            symbols = symbols_of(integer_law(law, grid, part), flat[part])
            for sub_pixels, offsets in grid.ruled_out:
                self.is_usable[runs_of[part][sub_pixels], offsets] = False
            parts.append(np.stack([np.stack(symbol, axis=-1) for symbol in symbols], axis=1).astype(np.int32))
        return torch.from_numpy(np.concatenate(parts)).view(*levels.shape, -1, 3)


def _in_order(each: Shaped[Tensor, "batch height width channel symbol"]) -> InOrder:
    """Put the images last."""
    return each.flatten(1).T.contiguous().numpy()
