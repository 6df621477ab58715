"""What a model promises: exact causality without blind spots, use of all context, and probabilities that sum to 1."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from contract.problem import Check, Position, Problem
from spn.evaluation.dependence import Dependence, dependence
from spn.evaluation.diffusion_check import chain_log_probs
from spn.evaluation.mass import images_of, model_mass
from spn.generation import WholePasses, build_steps, replay
from spn.models import Context, Model, Steps
from spn.stages import Stage

ONLY = 1
"""The class of images that are enumerated, where a stage is class-conditional."""


def _last_targets(problem: Problem) -> Iterator[tuple[Stage, Model, Position, Tensor, Context]]:
    """Return a few targets of every stage's last slice: it has the most context."""
    for case in problem.cases(8):
        if case[2] == case[0].targets[-1]:
            yield case


def check_causality(problem: Problem) -> None:
    """No law depends on a sub-pixel at or after its own: every such derivative is exactly 0."""
    assert [found.leak for found in dependences(problem)] == [0] * len(problem.plans)


def check_no_blind_spot(problem: Problem) -> None:
    """Every law depends on every sub-pixel before its own."""
    assert [found.blind for found in dependences(problem)] == [0] * len(problem.plans)


@lru_cache(maxsize=1)
def dependences(problem: Problem) -> list[Dependence]:
    """Differentiate the laws of every stage; two checks ask for it, one after the other."""
    return [dependence(model, context, target) for _, model, _, target, context in _last_targets(problem)]


def check_context_is_used(problem: Problem) -> None:
    """Every law depends on every cell of context, on whether it is empty, on the meta-position and on the class."""
    for stage, model, _, target, context in problem.cases(8):
        pairs = []
        for cell in context.present[0].nonzero().flatten().tolist():
            others, emptied, absent = context.cells.clone(), context.cells.clone(), context.present.clone()
            others[:, cell] ^= 1
            emptied[:, cell] = 0
            absent[:, cell] = False
            dark = replace(context, cells=emptied)
            pairs += [(context, replace(context, cells=others)), (dark, replace(dark, present=absent))]
        if stage.shape.num_cells and stage.shape.num_positions > 1:
            elsewhere = (context.position + 1) % stage.shape.num_positions
            pairs.append((context, replace(context, position=elsewhere)))
        if context.label is not None:
            pairs.append((context, replace(context, label=(context.label + 1) % stage.shape.num_classes)))
        if context.caption is not None:
            pairs.append((context, replace(context, caption=(context.caption + 1) % stage.shape.num_words)))
        if pairs:
            one, other = (_laws(model, target, contexts) for contexts in zip(*pairs, strict=True))
            # For one of the targets: a rectifier may be off for some.
            assert ((one - other).abs().amax(-1).amax(1) > 0).all()


def _laws(model: Model, target: Tensor, contexts: Sequence[Context]) -> Tensor:
    """Return the probabilities of one target under each of several contexts."""
    parts = {field.name: [getattr(each, field.name) for each in contexts] for field in fields(Context)}
    stacked: dict[str, Any] = {name: None if part[0] is None else torch.cat(part) for name, part in parts.items()}
    law = model(target.repeat(len(contexts), 1, 1, 1), Context(**stacked))
    return law.probs().unflatten(0, (len(contexts), -1))


def check_law(problem: Problem) -> None:
    """The probabilities of every sub-pixel's levels sum to 1, and are those that `log_prob` gives."""
    for stage, model, _, target, context in problem.cases():
        law = model(target, context)
        probs = law.probs()
        assert probs.shape == (*target.shape, stage.shape.num_levels)
        torch.testing.assert_close(probs.sum(-1), torch.ones(target.shape, dtype=torch.float64), atol=1e-12, rtol=0)
        for level in range(stage.shape.num_levels):
            log_prob = law.log_prob(torch.full_like(target, level)).double()
            torch.testing.assert_close(log_prob.exp(), probs[..., level], atol=1e-12, rtol=0)


def check_walk(problem: Problem) -> None:
    """The plain walk offers the laws that `forward` gives."""
    for _, model, _, target, context in _last_targets(problem):
        _check_offers(WholePasses(model), model, target, context)


def check_cached_walk(problem: Problem) -> None:
    """The step form offers the laws that `forward` gives, slice after slice."""
    steps = {id(model): build_steps(model, 2) for model in problem.models}
    for stage, model, _, target, context in problem.cases(2):
        _check_offers(steps[id(model)], model, target, context)
        if len(stage.targets) == 1:  # the slice of other images with the same buffers
            _check_offers(steps[id(model)], model, target.flip(0), context.map(lambda each: each.flip(0)))


def _check_offers(steps: Steps, model: Model, target: Tensor, context: Context) -> None:
    forward = model(target, context).log_prob(target).double()
    torch.testing.assert_close(replay(steps, context, target), forward, atol=1e-12, rtol=0)


def check_target_mass(problem: Problem) -> None:
    """The probabilities of all targets of a slice sum to 1."""
    for _, model, _, _, context in problem.cases(1):
        assert abs(model_mass(model, context) - 1) < 1e-12


def check_chain_mass(problem: Problem) -> None:
    """The probabilities that the chain gives all images sum to 1."""
    assert abs(chain_probabilities(problem)[1].sum().item() - 1) < 1e-10


def chain_probabilities(problem: Problem) -> tuple[Tensor, Tensor]:
    """Enumerate all images, and the probability that the chain gives each, all of them being of class `ONLY`."""
    images = images_of(1 << problem.bits, problem.shape).to(torch.uint8)
    log_probs, _ = chain_log_probs(list(problem.parts), images, torch.full((len(images),), ONLY))
    return images, log_probs.exp()


MODEL_CHECKS: tuple[Check, ...] = (
    check_causality,
    check_no_blind_spot,
    check_context_is_used,
    check_law,
    check_walk,
    check_cached_walk,
)

MASS_CHECKS: tuple[Check, ...] = (check_target_mass, check_chain_mass)
"""Checks for images so tiny that all of them can be enumerated; and so `check_frequencies`."""
