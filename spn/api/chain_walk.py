"""The walk over a whole chain, for people who write their own drivers.

    walk = model.walk(16)
    for offer in walk:                       # every sub-pixel of every stage, in the order of generation
        offer.give(offer.law.quantile(uniforms))   # or any other levels [16]
    walk.images                              # uint8 [16, H, W, C]

It is the walk that sampling drives (`spn.generation.walk`), stage by stage and slice by slice.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from spn.api.arrays import Array, Images
from spn.api.probe import Part
from spn.config import InputError
from spn.generation import build_steps
from spn.generation.walk import Offer, offers
from spn.image import join_slices, split_slices
from spn.likelihood import Law
from spn.shapes import Labels


@dataclass(frozen=True)
class ChainOffer:
    """The laws of one sub-pixel of every image of a batch; it must be given levels before the next is offered."""

    stage: str
    """The stage that generates it."""
    slice: tuple[int, int]
    """The meta-position (m, n) of its slice."""
    scale_factor: int
    """S: the slice holds the pixels [m::S, n::S]."""
    num_levels: int
    """Number of levels of the stage, which are those of its own bits."""
    batch: int
    """Number of images."""
    _offer: Offer
    _device: torch.device

    @property
    def law(self) -> Law:
        """The laws [batch] of the sub-pixel, given every level before it."""
        return self._offer.law

    @property
    def channel(self) -> int:
        """The channel."""
        return self._offer.channel

    @property
    def pixel(self) -> tuple[int, int]:
        """Row and column of the pixel in the image."""
        (m, n), size = self.slice, self.scale_factor
        return self._offer.row * size + m, self._offer.column * size + n

    def give(self, levels: Array) -> None:
        """Give the levels [batch]; raise InputError unless there is one of the stage's levels for each image."""
        given = torch.as_tensor(levels)
        if tuple(given.shape) != (self.batch,) or given.dtype.is_floating_point:
            raise InputError(f"levels: expected {self.batch} whole numbers, got {given.dtype} {list(given.shape)}")
        if not ((given >= 0) & (given < self.num_levels)).all():
            raise InputError(f"levels: expected 0 to {self.num_levels - 1} in stage {self.stage}, got others")
        self._offer.give(given.to(self._device).long())


class ChainWalk:
    """An iterator over the sub-pixels of all stages, which offers the law of each and must be given its levels."""

    def __init__(self, parts: Mapping[str, Part], images: Images, labels: Labels | None) -> None:
        self._parts, self._images, self._labels = parts, images, labels
        self._offers = self._walk()

    @property
    def images(self) -> Images:
        """The images so far, as levels; complete slices only, and bits not yet generated are 0."""
        return self._images.cpu()

    def __iter__(self) -> Iterator[ChainOffer]:
        return self

    def __next__(self) -> ChainOffer:
        return next(self._offers)

    @torch.inference_mode()
    def _walk(self) -> Iterator[ChainOffer]:
        for name, (stage, network) in self._parts.items():
            size, shape = stage.plan.scale_factor, stage.shape
            steps = build_steps(network, len(self._images))
            labels = self._labels if stage.plan.num_classes else None
            for position in stage.targets:
                slices = split_slices(self._images, size)
                steps.begin(stage.context(slices, stage.positions(position, len(slices), slices.device), labels))
                done: list[Offer] = []
                for offer in offers(steps, range(shape.height), shape.width, shape.channels):
                    yield ChainOffer(name, position, size, shape.num_levels, len(slices), offer, slices.device)
                    done.append(offer)
                given = [offer.levels for offer in done if offer.levels is not None]  # all, or `offers` has raised
                target = torch.stack(given, dim=1).unflatten(1, (shape.height, shape.width, shape.channels))
                self._images = join_slices(stage.insert(slices, position, target))
