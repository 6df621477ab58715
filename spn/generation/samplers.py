"""Ways to draw a slice from the same uniforms: they give the same sample, and differ in time alone."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float64
from torch import Tensor

from spn.generation.walk import Choose, Levels, WholePasses, walk
from spn.likelihood import Law
from spn.models import Context, Model

Uniforms: TypeAlias = Float64[Tensor, "batch height width channel"]
Draw: TypeAlias = Callable[[Context, Uniforms], Levels]
"""Draws one slice of each image of a batch."""
SamplerName = Literal["cached", "plain", "fixed_point"]


def cached_walk(model: Model, temperature: float) -> Draw:
    """Walk with caches: each law costs what is new since the last one."""
    # The buffers are made anew when the size of the batch changes, which it does at the end of a run.
    steps = lru_cache(maxsize=1)(model.steps)
    choose = _choose(temperature)
    return lambda context, uniforms: walk(steps(len(uniforms)), context, uniforms, choose)


def plain_walk(model: Model, temperature: float) -> Draw:
    """Walk with a whole pass over the slice for every sub-pixel: what the others are measured against."""
    choose = _choose(temperature)
    return lambda context, uniforms: walk(WholePasses(model), context, uniforms, choose)


def fixed_point(model: Model, temperature: float) -> Draw:
    """Iterate whole passes, all sub-pixels at once, until nothing changes (Jacobi iteration; Song et al. 2021).

    With the uniforms held fixed a slice is a triangular system of equations. Its only solution is the sample that the
    walk gives, reached after at most as many passes as there are sub-pixels, and in practice after far fewer.
    """
    return partial(_solve, model, _choose(temperature))


@torch.inference_mode()
def _solve(model: Model, choose: Choose, context: Context, uniforms: Uniforms) -> Levels:
    features = model.embed_context(context)
    levels = torch.zeros(uniforms.shape, dtype=torch.long, device=uniforms.device)
    while True:
        found = choose(model.laws(model.embed_target(levels), features), uniforms)
        if torch.equal(found, levels):
            return levels
        levels = found


def _choose(temperature: float) -> Choose:
    def choose(law: Law, uniform: Tensor) -> Tensor:
        return (law if temperature == 1 else law.tempered(temperature)).quantile(uniform)

    return choose


SAMPLERS: dict[SamplerName, Callable[[Model, float], Draw]] = {
    "cached": cached_walk,
    "plain": plain_walk,
    "fixed_point": fixed_point,
}
