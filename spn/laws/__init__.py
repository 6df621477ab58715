"""The laws that a model's section can name (`law: softmax`), one file each.

A file defines `output_law`, which turns a network's outputs at a sub-pixel into its law. It may also define a `head`
for networks whose features see no channel of the pixel; by default this is a `ChannelHead` with the output law.
"""

import importlib
from types import ModuleType

from spn.config import Law as LawName
from spn.layers import ChannelHead, ChannelHeadSteps, MaskedHead, MaskedHeadSteps, PixelHead, PixelHeadSteps, Scale

__all__ = ["build_head", "build_stacked_head", "head_steps", "stacked_head_steps"]


def build_stacked_head(
    law: LawName, num_in: int, channels: int, scale: Scale, num_mixtures: int, masks_channels: bool
) -> PixelHead:
    """Build the head of a law on `num_in` features: masked by channel, or not seeing any channel of their pixel."""
    build = build_masked_head if masks_channels else build_head
    return build(law, num_in, channels, scale, num_mixtures)


def build_masked_head(law: LawName, num_in: int, channels: int, scale: Scale, num_mixtures: int) -> PixelHead:
    """Build the head of a law on features that are masked by channel."""
    return MaskedHead(num_in, channels, scale, _module(law).output_law(scale, num_mixtures))


def build_head(law: LawName, num_in: int, channels: int, scale: Scale, num_mixtures: int) -> PixelHead:
    """Build the head of a law on features that see no channel of their pixel."""
    module = _module(law)
    if hasattr(module, "head"):
        head: PixelHead = module.head(num_in, channels, scale, num_mixtures)
    else:
        head = ChannelHead(num_in, channels, scale, module.output_law(scale, num_mixtures))
    head.law = law
    return head


def stacked_head_steps(head: PixelHead, batch: int) -> PixelHeadSteps:
    """Return the step form of a head that `build_stacked_head` built."""
    return MaskedHeadSteps(head, batch) if isinstance(head, MaskedHead) else head_steps(head, batch)


def head_steps(head: PixelHead, batch: int) -> PixelHeadSteps:
    """Return the step form of a head that `build_head` built."""
    module = _module(head.law)
    if hasattr(module, "head"):
        return module.head_steps(head, batch)
    assert isinstance(head, ChannelHead)
    return ChannelHeadSteps(head, batch)


def _module(law: str) -> ModuleType:
    # Imported by name, so that a stage's code digest covers only its own law.
    return importlib.import_module(f"spn.laws.{law}")
