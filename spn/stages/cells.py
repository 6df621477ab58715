"""A stage of cells is a bijection between the image and (target, context); only this file knows about upscaling.

Size upscaling, depth upscaling and both (Menick & Kalchbrenner 2018, Sec. 3.2 and 3.3) differ only in which bits of
which slices are known before a target slice. The stage's plan states these, and two windows turn it into the model's
context:

- The causal window, 2S(S-1) cells: the known bits of every slice before the target.
- The high-bit window, (2S-1)^2 cells: the bits of every slice that earlier stages generated. It exists only if they
  generated bits of the target or of later slices. (NOTE: the paper leaves open how its depth upscaling network sees the
  high bits; this window is ours.)
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from spn.config import FirstStageSection, StagePlan, StageSection
from spn.image import causal_offsets, gather_window, window_offsets
from spn.models import Context, Model, StageShape, build_model
from spn.shapes import Labels, Levels, Positions, Slices

CPU = torch.device("cpu")


class Stage:
    """The targets and contexts of one stage, for images given as slices of full levels [batch, S, S, h, w, C].

    Bits of `slices` that are not yet generated never reach a context, so training may pass whole images. `device` is
    the device of the slices; the indices that gather contexts are kept there, because every copy would make it wait.
    """

    figure = "bits_per_dim"
    """What histories make of the loss: bits/dim, or for a first stage the loss itself."""
    has_idle_weights = False
    """Whether some weights do not enter the loss at every step of training."""
    progress = 0.0
    """Share of the training's steps that are done, on which the loss of some kinds depends."""

    def __init__(self, plan: StagePlan, shape: tuple[int, int, int], device: torch.device = CPU) -> None:
        height, width, channels = shape
        self.plan = plan
        self.targets = plan.targets
        self.image_dims = height * width * channels
        """Sub-pixels of the full image, by which every stage's nats are divided."""
        self.draws = 1
        """Draws of `nats` that make an image's figure; 1 if nothing is drawn."""
        before = torch.tensor(plan.known)
        own = torch.zeros_like(before)
        for m, n in plan.targets:
            own[m, n] = plan.own_mask
        size = plan.scale_factor
        windows = []
        if self._is_any_known(before | own, earlier=True):
            windows.append((before | own, torch.tensor(causal_offsets(size))))
        if self._is_any_known(before, earlier=False):
            windows.append((before, torch.tensor(window_offsets(size))))
        num_cells = sum(len(offsets) for _, offsets in windows)
        self._windows = [(visible.to(device), offsets.to(device)) for visible, offsets in windows]
        self.shape = StageShape(
            height=height // size,
            width=width // size,
            channels=channels,
            num_levels=plan.num_levels,
            num_cells=num_cells,
            context_levels=1 << plan.image_bits,
            num_positions=size * size,
            high_levels=plan.high_levels,
            num_classes=0 if plan.captions else plan.num_classes,
            num_words=1 + max((token for caption in plan.captions for token in caption), default=-1),
            caption_length=len(plan.captions[0]) if plan.captions else 0,
        )
        self._captions = torch.tensor(plan.captions, device=device)

    def _is_any_known(self, known: Tensor, earlier: bool) -> bool:
        """Tell whether any target sees a known slice before it, or else at or after it."""
        slices = [(int(m), int(n)) for m, n in known.nonzero()]
        return any((cell < target) == earlier for target in self.targets for cell in slices)

    def target(self, slices: Slices, position: Positions) -> Levels:
        """Return the levels to be generated, 0 .. num_levels - 1, of each image's slice at `position`."""
        levels = _at(slices, position)
        return (levels & self.plan.own_mask) >> (self.plan.image_bits - self.plan.bits[1])

    def context(self, slices: Slices, position: Positions, labels: Labels | None = None) -> Context:
        """Gather the context of each image's slice at `position`; `labels` if the stage is conditioned on them."""
        assert (labels is not None) == bool(self.plan.num_classes), (
            "labels just for a stage that is conditioned on them"
        )
        scale_factor = self.plan.scale_factor
        device = slices.device
        windows = [
            gather_window(slices, visible.to(device), position, offsets.to(device))
            for visible, offsets in self._windows
        ]
        if not windows:
            empty = slices.new_zeros(len(slices), 0, *slices.shape[3:])
            windows.append((empty, empty.new_zeros(len(slices), 0, dtype=torch.bool)))
        cells, present = (torch.cat(parts, dim=1) for parts in zip(*windows, strict=True))
        number, high = position[:, 0] * scale_factor + position[:, 1], self._high(slices, position)
        context = Context(cells.long(), present, number, high)
        if labels is None:
            return context
        if not self.plan.captions:
            return replace(context, label=labels)
        return replace(context, caption=labels if labels.ndim > 1 else self._captions.to(labels.device)[labels.long()])

    def _high(self, slices: Slices, position: Positions) -> Levels | None:
        """Return the more significant bits of each image's slice at `position`; None unless all of them are known."""
        if self.plan.high_levels == 1:
            return None
        return _at(slices, position) >> (self.plan.image_bits - self.plan.bits[0])

    def insert(self, slices: Slices, position: tuple[int, int], levels: Levels) -> Slices:
        """Write generated levels into a copy of `slices`, at the same position in all images."""
        every_bit = (1 << self.plan.image_bits) - 1
        filled = slices.clone()
        own = (levels << (self.plan.image_bits - self.plan.bits[1])).to(slices.dtype)
        here = filled[:, position[0], position[1]]
        filled[:, position[0], position[1]] = (here & (every_bit ^ self.plan.own_mask)) | own
        return filled

    def nats(
        self, model: Model, slices: Slices, position: Positions, labels: Labels | None = None
    ) -> Float64[Tensor, " batch"]:
        """Return -log p(target | context) of each image's slice at `position`, in nats; summed in float64."""
        return self.sub_pixel_nats(model, slices, position, labels).flatten(1).sum(1, dtype=torch.float64)

    def sub_pixel_nats(
        self, model: Model, slices: Slices, position: Positions, labels: Labels | None = None
    ) -> Float[Tensor, "batch height width channel"]:
        """Return what every sub-pixel of each image's slice at `position` adds to `nats`."""
        target = self.target(slices, position)
        return -model(target, self.context(slices, position, labels)).log_prob(target)

    def loss(
        self, model: Model, slices: Slices, position: Positions, labels: Labels | None = None
    ) -> Float64[Tensor, " batch"]:
        """Return what training minimises for each image, in nats: `nats`."""
        return self.nats(model, slices, position, labels)

    def build_network(self, section: StageSection | FirstStageSection) -> Model:
        """Build the network of the stage's section, freshly initialised from torch's global generator."""
        assert isinstance(section, StageSection)
        return build_model(section.model, self.shape)

    def num_parameters(self, section: StageSection | FirstStageSection) -> int:
        """Count the parameters of a network without allocating them."""
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.build_network(section).parameters())

    def initialise(self, model: Model, slices: Slices, position: Positions, labels: Labels | None = None) -> None:
        """Initialise the network from a first batch, if its family does so."""
        model.initialise(self.target(slices, position), self.context(slices, position, labels))

    def positions(self, position: tuple[int, int], batch: int, device: torch.device | None = None) -> Positions:
        """Repeat one meta-position for a batch."""
        # Filled on the device, because a copy to it would make it wait.
        return torch.stack([torch.full((batch,), index, device=device) for index in position], dim=1)


def _at(slices: Slices, position: Positions) -> Levels:
    """Return each image's slice at `position`."""
    image = torch.arange(len(slices), device=slices.device)
    return slices[image, position[:, 0], position[:, 1]].long()


def build(plan: StagePlan, shape: tuple[int, int, int], device: torch.device) -> Stage:
    """Build the stage of a plan that is no scale of a diffusion."""
    return Stage(plan, shape, device)
