"""Checks that a likelihood is one: nothing leaks, and the probabilities of everything sum to one.

Causality is tested by autograd in float64: how a law depends on each sub-pixel of its slice. Leaks between slices and
between stages cannot be seen by a model, only by its stage, so there the bits that are not yet known are replaced by
others. Normalisation is tested by enumeration.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from spn.config import InputError, ModelSection, StagePlan
from spn.models import Context, Model, Signature, build_model
from spn.stages import Stage

MOST_IMAGES = 1 << 14
"""Most images a normalisation check enumerates."""


@dataclass(frozen=True)
class Dependence:
    """How the laws of a model depend on its target, sub-pixels in raster order, channels innermost.

    `leak` is the largest derivative by a sub-pixel at or after a law's own, which must be exactly 0; `blind` counts
    the sub-pixels before it on which a law does not depend for any of the targets.
    """

    leak: float
    blind: int


def dependence(model: Model, context: Context, levels: Tensor) -> Dependence:
    """Differentiate every law of a few targets [batch, h, w, C] by every sub-pixel of its own target."""
    embedded = model.embed_target(levels).detach().requires_grad_()
    features = model.embed_context(context)
    laws = model.laws(embedded, features, context).probs()
    # A random direction, so that nothing cancels; the probabilities themselves always sum to one.
    generator = torch.Generator().manual_seed(0)
    direction = torch.rand(laws.shape, generator=generator, dtype=torch.float64)
    outputs = (laws * direction.to(laws)).sum(-1).flatten(1).sum(0)
    rows = [torch.autograd.grad(output, embedded, retain_graph=True)[0] for output in outputs]
    # The largest over the targets, for a rectifier may be off for one of them.
    jacobian = torch.stack(rows).abs().sum(-1).flatten(2).amax(1)
    forbidden = torch.ones_like(jacobian).triu().bool()
    return Dependence(leak=jacobian[forbidden].max().item(), blind=int((jacobian[~forbidden] == 0).sum().item()))


def random_context(signature: Signature, batch: int, generator: torch.Generator) -> Context:
    """Draw a context, all its cells present."""
    size = (batch, signature.num_cells, signature.height, signature.width, signature.channels)
    return Context(
        cells=torch.randint(signature.context_levels, size, generator=generator),
        present=torch.ones(size[:2], dtype=torch.bool),
        position=torch.randint(signature.num_positions, (batch,), generator=generator),
        high=_random_high(signature, batch, generator),
        label=torch.randint(signature.num_classes, (batch,), generator=generator) if signature.num_classes else None,
    )


def _random_high(signature: Signature, batch: int, generator: torch.Generator) -> Tensor | None:
    if signature.high_levels == 1:
        return None
    size = (batch, signature.height, signature.width, signature.channels)
    return torch.randint(signature.high_levels, size, generator=generator)


def images_of(num_levels: int, shape: tuple[int, ...]) -> Tensor:
    """Enumerate every array of `shape` with levels 0 .. num_levels - 1; shaped [count, *shape]."""
    size = torch.Size(shape).numel()
    return torch.tensor(list(product(range(num_levels), repeat=size))).view(-1, *shape)


def model_mass(model: Model, context: Context) -> float:
    """Sum the probabilities of every possible target, given the context of one image."""
    shape = model.signature
    targets = images_of(shape.num_levels, (shape.height, shape.width, shape.channels))
    count = len(targets)
    repeated = context.map(lambda each: each.expand(count, *each.shape[1:]))
    with torch.inference_mode():
        return model(targets, repeated).log_prob(targets).double().flatten(1).sum(1).exp().sum().item()


def hidden_bits_leak(stage: Stage, slices: Tensor, generator: torch.Generator) -> list[tuple[int, int]]:
    """List the target slices whose context changes when every bit not yet generated is replaced by another.

    `slices` [batch, S, S, h, w, C] are any images; a stage that is causal lists nothing.
    """
    plan = stage.plan
    labels = torch.zeros(len(slices), dtype=torch.long) if plan.num_classes else None
    leaking = []
    for position in stage.targets:
        known = torch.tensor(plan.known)
        for m, n in plan.targets:
            known[m, n] |= plan.own_mask if (m, n) < position else 0
        unknown = ((1 << plan.image_bits) - 1 - known)[:, :, None, None, None].to(slices.dtype)
        noise = torch.randint(1 << plan.image_bits, slices.shape, generator=generator).to(slices.dtype)
        changed = slices ^ (noise & unknown)
        positions = stage.positions(position, len(slices))
        before, after = (stage.context(each, positions, labels) for each in (slices, changed))
        if not torch.equal(before.cells, after.cells) or not torch.equal(before.present, after.present):
            leaking.append(position)
    return leaking


def tiny_signatures(signature: Signature) -> Iterator[Signature]:
    """Shrink a stage's problem, most faithful first: a smaller slice, then fewer levels."""
    for num_levels in dict.fromkeys((signature.num_levels, 2)):
        for height, width in ((2, 2), (1, 2), (2, 1), (1, 1)):
            yield replace(signature, height=height, width=width, num_levels=num_levels)


def check_stage(plan: StagePlan, shape: tuple[int, int, int], section: ModelSection, seed: int) -> str:
    """Check a configured stage with random weights in float64; say in one line what was found.

    Raises InputError when something leaks or does not sum to one.
    """
    generator = torch.Generator().manual_seed(seed)
    stage = Stage(plan, shape)
    slices = _random_slices(stage, shape, generator)
    if leaking := hidden_bits_leak(stage, slices, generator):
        raise InputError(f"stages.{plan.name}: the context of slices {leaking} depends on bits not yet generated")
    small = next(each for each in _small_signatures(stage.signature) if _takes(section, each))
    found = dependence(*_random_problem(section, small, 8, generator))
    if found.leak:
        raise InputError(f"stages.{plan.name}: a law depends on what comes after it (derivative {found.leak:.3g})")
    mass, what = _mass(section, stage.signature, small, generator)
    if abs(mass - 1) > 1e-9:
        raise InputError(f"stages.{plan.name}: expected probabilities that sum to 1, got {mass!r}")
    return (
        f"{plan.name}: causal (largest forbidden derivative {found.leak:g} on {small.height}x{small.width}, "
        f"{found.blind} blind spots; contexts of {len(stage.targets)} slices see no later bit); normalised ({what} "
        f"sum to 1 {mass - 1:+.1e})"
    )


def _mass(
    section: ModelSection, signature: Signature, small: Signature, generator: torch.Generator
) -> tuple[float, str]:
    """Sum probabilities that must be 1, and say whose.

    A family that takes no slice small enough for all targets to be enumerated is asked for its laws, which is as much
    where none of them leaks; given is then the sum that is farthest from 1.
    """
    for tiny in tiny_signatures(signature):
        if (count := _num_targets(tiny)) <= MOST_IMAGES and _takes(section, tiny):
            model, context, _ = _random_problem(section, tiny, 1, generator)
            size = f"{tiny.height}x{tiny.width}x{tiny.channels}"
            return model_mass(model, context), f"all {count} targets of {size} with {tiny.num_levels} levels"
    model, context, levels = _random_problem(section, small, 8, generator)
    with torch.inference_mode():
        sums = model(levels, context).probs().double().sum(-1).flatten()
    farthest = sums[(sums - 1).abs().argmax()].item()
    return farthest, f"all {small.num_levels} levels of each sub-pixel of {small.height}x{small.width}x{small.channels}"


def _small_signatures(signature: Signature) -> Iterator[Signature]:
    """Shrink a stage's slices to a few pixels, for some families to more than for others."""
    for side in (3, 4):
        yield replace(signature, height=min(side, signature.height), width=min(side, signature.width))


def _takes(section: ModelSection, signature: Signature) -> bool:
    """Tell whether a family fits slices of this shape."""
    return section.problem(signature.height, signature.width, signature.channels) is None


def _num_targets(signature: Signature) -> int:
    return signature.num_levels ** (signature.height * signature.width * signature.channels)


def _random_slices(stage: Stage, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    size, small = stage.plan.scale_factor, stage.signature
    dims = (2, size, size, small.height, small.width, shape[2])
    return torch.randint(1 << stage.plan.image_bits, dims, generator=generator).to(torch.uint8)


def _random_problem(
    section: ModelSection, signature: Signature, count: int, generator: torch.Generator
) -> tuple[Model, Context, Tensor]:
    """Build a model with random weights in float64, and `count` contexts and targets."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(1 << 31, (), generator=generator)))
        model = build_model(section, signature).double().eval()
        # Every weight random, for a zero left by the initialisation would hide a dependence; and scaled, for so would a
        # gate that is saturated.
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3)
    targets = (count, signature.height, signature.width, signature.channels)
    levels = torch.randint(signature.num_levels, targets, generator=generator)
    return model, random_context(signature, count, generator), levels
