"""The one traversal of a slice: it offers the law of the next sub-pixel and is given its value.

Sampling and scoring are drivers of it, so they cannot disagree about order or context.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from spn.likelihood import Law
from spn.models import Context, Model

Position = tuple[int, int, int]
Levels = Int[Tensor, "batch height width channel"]
Choose = Callable[[Position, Law], Int[Tensor, " batch"]]
"""Is offered (row, column, channel) and the law there; answers with a value for each image."""


def walk(model: Model, context: Context, choose: Choose) -> Levels:
    """Traverse a slice in raster order, channels innermost, and return what `choose` made of it.

    Every law is that of `model.forward` given the values chosen so far.
    """
    shape = model.signature
    size = (len(context.cells), shape.height, shape.width, shape.channels)
    levels = torch.zeros(size, dtype=torch.long, device=context.cells.device)
    features = model.embed_context(context)
    for row in range(shape.height):
        for column in range(shape.width):
            for channel in range(shape.channels):
                laws = model.laws(model.embed_target(levels), features)
                here = (row, column, channel)
                levels[:, row, column, channel] = choose(here, laws.select(*here))
    return levels


@torch.inference_mode()
def replay(model: Model, context: Context, levels: Levels) -> Float64[Tensor, "batch height width channel"]:
    """Walk over known levels and give the log-probability of each, in nats."""
    log_probs = torch.zeros(levels.shape, dtype=torch.float64, device=levels.device)

    def score(here: Position, law: Law) -> Tensor:
        value = levels[:, *here]
        log_probs[:, *here] = law.log_prob(value).double()
        return value

    walk(model, context, score)
    return log_probs
