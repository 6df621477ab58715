"""The laws that a model's section can name (`law: softmax`): a file for each.

A file has `form`, how a network's outputs at a sub-pixel become its law. It may have a `head` of its own, for networks
whose features see no channel of the pixel; without one, `ChannelHead` makes one of the form.
"""

import importlib
from types import ModuleType

from spn.config import Law as LawName
from spn.layers import ChannelHead, ChannelHeadSteps, PixelHead, PixelHeadSteps, Scale
from spn.likelihood import LawForm

__all__ = ["build_head", "head_steps", "law_form"]


def law_form(law: LawName, scale: Scale, num_mixtures: int) -> LawForm:
    """Return the form of a law; a mixture has `num_mixtures` components."""
    return _module(law).form(scale, num_mixtures)


def build_head(law: LawName, num_in: int, channels: int, scale: Scale, num_mixtures: int) -> PixelHead:
    """Build the head of a law on `num_in` features."""
    module = _module(law)
    if hasattr(module, "head"):
        head: PixelHead = module.head(num_in, channels, scale, num_mixtures)
    else:
        head = ChannelHead(num_in, channels, scale, module.form(scale, num_mixtures))
    head.law = law
    return head


def head_steps(head: PixelHead, batch: int) -> PixelHeadSteps:
    """Return the step form of a head."""
    module = _module(head.law)
    if hasattr(module, "head"):
        return module.head_steps(head, batch)
    assert isinstance(head, ChannelHead)
    return ChannelHeadSteps(head, batch)


def _module(law: str) -> ModuleType:
    # By name, so that the digest of a stage's code covers its own law and no other.
    return importlib.import_module(f"spn.laws.{law}")
