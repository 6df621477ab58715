"""The traversal of a stage's target slices, which sampling, inpainting and coding share."""

from collections.abc import Callable
from typing import TypeAlias

from spn.models import Context
from spn.shapes import ByteSlices, Labels, Levels, Positions
from spn.stages import Stage

Fill: TypeAlias = Callable[[tuple[int, int], Positions, Context], Levels]
"""Returns the levels of the slice at a meta-position (m, n) of every image, given the same for each image, and its
context."""


def fill_targets(stage: Stage, slices: ByteSlices, fill: Fill, labels: Labels | None = None) -> ByteSlices:
    """Fill in a stage's target slices one after another, each given those before; `slices` has the earlier stages'.

    This is the middle part of the order of Menick & Kalchbrenner 2018, Fig. 3; `walk` is the last. A stage that is
    conditioned on no class ignores `labels`.
    """
    classes = labels if stage.plan.num_classes else None
    for position in stage.targets:
        positions = stage.positions(position, len(slices), slices.device)
        context = stage.context(slices, positions, classes)
        slices = stage.insert(slices, position, fill(position, positions, context))
    return slices
