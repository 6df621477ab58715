"""Samplers: ways to draw a slice from uniforms. All return the same sample, and differ only in speed."""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from spn.generation.captured import CapturedWalk
from spn.generation.walk import Choose, WholePasses, build_steps, walk
from spn.likelihood import Law
from spn.models import Context, Model
from spn.shapes import Levels

Uniforms: TypeAlias = Float64[Tensor, "batch height width channel"]
Draw: TypeAlias = Callable[[Context, Uniforms], Levels]
"""Draws one slice of each image of a batch."""


class CachedWalk:
    """The walk with caches, which compute only what is new for each law; on CUDA as captured graphs."""

    def __init__(self, model: Model, choose: Choose) -> None:
        self._model, self._choose = model, choose
        self._batch = 0

    def __call__(self, context: Context, uniforms: Uniforms) -> Levels:
        """Draw one slice of each image."""
        # New buffers if the batch size changes, as it does for the last batch.
        if len(uniforms) != self._batch:
            self._prepare(context, uniforms)
        return self._walk(context, uniforms)

    def _prepare(self, context: Context, uniforms: Uniforms) -> None:
        self._batch = len(uniforms)
        steps = build_steps(self._model, self._batch)
        if uniforms.is_cuda:
            self._walk: Draw = CapturedWalk(steps, context, uniforms, self._choose)
        else:
            self._walk = lambda context, uniforms: walk(steps, context, uniforms, self._choose)


def plain_walk(model: Model, choose: Choose) -> Draw:
    """Walk with a whole pass over the slice for every sub-pixel: the reference for the other samplers."""
    return lambda context, uniforms: walk(WholePasses(model), context, uniforms, choose)


def fixed_point(model: Model, choose: Choose) -> Draw:
    """Iterate whole passes, all sub-pixels at once, until nothing changes (Jacobi iteration; Song et al. 2021).

    With fixed uniforms, a slice solves a triangular system of equations. Its only solution is the sample of the walk.
    The iteration reaches it after at most as many passes as there are sub-pixels, in practice after far fewer. Drawing
    raises RuntimeError if it does not, because a law then depends on levels that come after it.
    """
    return partial(_solve, model, choose)


@torch.inference_mode()
def _solve(model: Model, choose: Choose, context: Context, uniforms: Uniforms) -> Levels:
    embedded_context = model.embed_context(context)
    levels = torch.zeros(uniforms.shape, dtype=torch.long, device=uniforms.device)
    num_dims = uniforms[0].numel()
    for _ in range(num_dims + 1):
        found = choose(model.laws(model.embed_target(levels), embedded_context, context), uniforms)
        if torch.equal(found, levels):
            return levels
        levels = found
    raise RuntimeError(f"expected a sample after {num_dims} passes: a law depends on levels that come after it")


def choosing(temperature: float = 1.0, top_k: int | None = None) -> Choose:
    """Return the choice of a level by a uniform, from laws p^(1/temperature), and of these from the `top_k` levels."""

    def choose(law: Law, uniform: Tensor) -> Tensor:
        law = law if temperature == 1 else law.tempered(temperature)
        return (law if top_k is None else law.truncated(top_k)).quantile(uniform)

    return choose


def forced(levels: Int[Tensor, "*batch"]) -> Float64[Tensor, "*batch"]:
    """Return what `given` of a walk holds instead of uniforms where a level is known, for `forcing`."""
    return -1.0 - levels.double()


def forcing(choose: Choose) -> Choose:
    """Return a choice that takes known levels (`forced`) as they are, and chooses the others."""

    def force(law: Law, given: Tensor) -> Tensor:
        return torch.where(given < 0, (-1 - given).long(), choose(law, given.clamp(min=0)))

    return force


SAMPLERS: dict[str, Callable[[Model, Choose], Draw]] = {
    "cached": CachedWalk,
    "plain": plain_walk,
    "fixed_point": fixed_point,
}
