"""Finds what a law depends on: in its own slice by autograd, in the context by changing it pixel by pixel."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spn.models import Context, Model

MOST_PIXELS = 64
"""Maximum number of pixels of context that are changed, one at a time; on larger slices they are evenly spaced."""

AT_ONCE = 16
"""Number of changed contexts in a batch."""


@dataclass(frozen=True)
class Dependence:
    """How the laws of a model depend on its target, sub-pixels in raster order, channels innermost.

    `leak` is the largest derivative of a law by its own or a later sub-pixel, which must be exactly 0; `blind` counts
    pairs of a law and an earlier sub-pixel on which it does not depend for any of the targets.
    """

    leak: float
    blind: int


def dependence(model: Model, context: Context, levels: Tensor) -> Dependence:
    """Differentiate every law of a few targets [batch, h, w, C] by every sub-pixel of its own target."""
    embedded = model.embed_target(levels).detach().requires_grad_()
    laws = model.laws(embedded, model.embed_context(context), context).probs()
    # A random direction, so that nothing cancels; the probabilities themselves always sum to one.
    generator = torch.Generator().manual_seed(0)
    direction = torch.rand(laws.shape, generator=generator, dtype=torch.float64)
    outputs = (laws * direction.to(laws)).sum(-1).flatten(1).sum(0)
    rows = [torch.autograd.grad(output, embedded, retain_graph=True)[0] for output in outputs]
    # The maximum over the targets, because a rectifier may be off for one of them.
    jacobian = torch.stack(rows).abs().sum(-1).flatten(2).amax(1)
    forbidden = torch.ones_like(jacobian).triu().bool()
    return Dependence(leak=jacobian[forbidden].max().item(), blind=int((jacobian[~forbidden] == 0).sum().item()))


@dataclass(frozen=True)
class Sight:
    """Which pixels of context each law sees: `sees[law, context]`, both in raster order.

    `reach` is the largest distance, in rows or columns, at which context enters the features of a pixel; laws may see
    farther, through earlier pixels. `changed` are the pixels of context that were changed.
    """

    reach: int
    sees: Tensor
    changed: Tensor

    @property
    def blind(self) -> list[tuple[int, int]]:
        """Pairs of a law's pixel and a pixel of context on which the law does not depend."""
        return [(int(law), int(self.changed[place])) for law, place in (~self.sees).nonzero()]


@torch.inference_mode()
def sight(model: Model, context: Context, levels: Tensor) -> Sight | None:
    """Change the pixels of context one at a time, in all cells, and find which features and laws change.

    Returns None without context. A law that does not depend on a pixel stays the same to the last bit.
    """
    shape = model.shape
    if not shape.num_cells:
        return None
    num_pixels = shape.height * shape.width
    tried = min(num_pixels, MOST_PIXELS)
    changed = torch.arange(tried) * (num_pixels - 1) // max(1, tried - 1)
    parts = [_changes(model, context, levels, pixels) for pixels in changed.split(AT_ONCE)]
    features, sees = (torch.cat(each) for each in zip(*parts, strict=True))
    place, pixel = features.nonzero().unbind(1)
    ends = [(each // shape.width, each % shape.width) for each in (changed[place], pixel)]
    distances = [(one - other).abs() for one, other in zip(*ends, strict=True)]
    reach = int(torch.cat(distances).max()) if len(place) else 0
    return Sight(reach, sees.T, changed)


def _changes(model: Model, context: Context, levels: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Tell which features and laws change with each of some pixels of context, as two tensors [pixels, h * w]."""
    repeated = context.map(lambda each: each.repeat(len(pixels), *[1] * (each.ndim - 1)))
    cells = repeated.cells.clone().unflatten(0, (len(pixels), -1)).flatten(-3, -2)
    for place, pixel in enumerate(pixels):
        cells[place, ..., pixel, :] = model.shape.context_levels - 1 - cells[place, ..., pixel, :]
    other = replace(repeated, cells=cells.view(repeated.cells.shape))
    (old_features, old_scores), (features, scores) = (_outputs(model, each, levels) for each in (repeated, other))
    differ = (features != old_features, scores != old_scores)
    one, two = (each.any(-1).flatten(1).unflatten(0, (len(pixels), -1)).any(1) for each in differ)
    return one, two


def _outputs(model: Model, context: Context, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features of contexts, and the log-probabilities of the same few targets under each."""
    features = model.embed_context(context)
    assert features is not None, "cells of context are embedded"
    targets = levels.repeat(len(context.cells) // len(levels), 1, 1, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # a dequantised law draws noise
        return features, model.laws(model.embed_target(targets), features, context).log_prob(targets)
