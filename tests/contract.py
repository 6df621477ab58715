"""The contract of stages and models, as checks that the tests apply to sound code and to code with planted bugs.

A check takes a Problem, a chain with models of random weights in float64, and asserts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from spn.config import SpnSection, StagePlan, tile
from spn.config.tiling import Slices
from spn.evaluation.check import dependence, hidden_bits_leak, images_of, model_mass
from spn.generation import replay, sample_chain_stage, sample_stage
from spn.image import join_slices, split_slices
from spn.image.order import generation_order
from spn.likelihood import Law
from spn.models import Context, Model, Signature, build_model
from spn.stages import Stage

SEED = 7
"""Of samples."""

Shape = tuple[int, int, int]
Position = tuple[int, int]


@dataclass(frozen=True)
class Part:
    """The cells of a stage, as its section of params.yaml names them."""

    scale_factor: int
    slices: Slices
    bits: tuple[int, int]


Chain = dict[str, Part]

SMALL = SpnSection(
    family="spn",
    width=8,
    heads=2,
    transformer_layers=1,
    pixelcnn_width=24,
    pixelcnn_layers=2,
    embedder_layers=1,
    meta_position_units=2,
    intensity_units=3,
)
"""The smallest network that has every part."""


def chains(high: int, bits: int) -> dict[str, Chain]:
    """Name chains over images of `bits` bits that between them have every kind of stage; `high` bits come first."""
    every, hi, lo = (0, bits), (0, high), (high, bits)
    return {
        "raster": {"raster": Part(1, "all", every)},
        "subscale": {"subscale": Part(2, "all", every)},
        "depth": {"high": Part(1, "all", hi), "low": Part(1, "all", lo)},
        "multidimensional": {
            "first_high": Part(2, "first", hi),
            "rest_high": Part(2, "rest", hi),
            "low": Part(2, "all", lo),
        },
        "size": {"first": Part(2, "first", every), "rest": Part(2, "rest", every)},
        "rest_before_first": {"rest": Part(2, "rest", every), "first": Part(2, "first", every)},
        "low_before_high": {"low": Part(2, "all", lo), "high": Part(2, "all", hi)},
        "raster_then_subscale": {"high": Part(1, "all", hi), "low": Part(2, "all", lo)},
        "size_then_raster": {
            "first": Part(2, "first", hi),
            "rest": Part(2, "rest", hi),
            "low": Part(1, "all", lo),
        },
        "uneven": {
            "first": Part(2, "first", every),
            "rest_high": Part(2, "rest", hi),
            "rest_low": Part(2, "rest", lo),
        },
    }


def three_way() -> Chain:
    """Split three bits in three."""
    return {name: Part(2, "all", (bit, bit + 1)) for bit, name in enumerate(("high", "middle", "low"))}


@dataclass(frozen=True)
class Problem:
    """A chain, resolved, with a model for each stage."""

    shape: Shape
    bits: int
    plans: tuple[StagePlan, ...]
    models: tuple[Model, ...]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Give the stages, in the order of the chain."""
        return tuple(Stage(plan, self.shape) for plan in self.plans)

    @property
    def parts(self) -> Iterator[tuple[Stage, Model]]:
        """Pair the stages with their models."""
        return zip(self.stages, self.models, strict=True)

    def images(self, count: int) -> Tensor:
        """Draw images of noise."""
        generator = torch.Generator().manual_seed(5)
        return torch.randint(1 << self.bits, (count, *self.shape), generator=generator).to(torch.uint8)

    def cases(self, count: int = 2) -> Iterator[tuple[Stage, Model, Position, Tensor, Context]]:
        """Give every target slice of every stage, with the target and context that noise has there."""
        for stage, model in self.parts:
            slices = split_slices(self.images(count), stage.plan.scale_factor)
            for position in stage.targets:
                positions = stage.positions(position, count)
                yield stage, model, position, stage.target(slices, positions), stage.context(slices, positions)


def build_problem(chain: Chain, shape: Shape, bits: int, section: SpnSection = SMALL) -> Problem:
    """Resolve a chain and give each stage a model with random weights."""
    problem = Problem(shape, bits, tile("chain", chain, bits), models=())
    models = (random_model(section, stage.signature, seed) for seed, stage in enumerate(problem.stages))
    return replace(problem, models=tuple(models))


def random_model(section: SpnSection, signature: Signature, seed: int) -> Model:
    """Build a model all of whose weights are random, for zeros of the initialisation would hide what leaks."""
    model = build_model(section, signature).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


# Checks of a stage's context.


def check_every_bit_once(problem: Problem) -> None:
    """Every bit of every pixel is generated exactly once."""
    times = np.zeros((problem.bits, *problem.shape[:2]), dtype=int)
    for _, bits, pixel in generation_order(problem.plans, *problem.shape[:2]):
        times[(slice(*bits), *pixel)] += 1
    assert (times == 1).all()


def check_contexts(problem: Problem) -> None:
    """Every context is what the paper's formula cuts out of the image at full resolution, and nothing else."""
    image = problem.images(1)
    for stage, plan, before, targets in _generation(problem):
        for position, now in targets:
            expected = _expected_cells(image[0].numpy(), plan, position, before, now, targets)
            slices = split_slices(image, plan.scale_factor)
            actual = stage.context(slices, stage.positions(position, 1))
            assert actual.present[0].tolist() == [cell is not None for cell in expected]
            for cell, levels in zip(expected, actual.cells[0].numpy(), strict=True):
                np.testing.assert_array_equal(levels, np.zeros_like(levels) if cell is None else cell)
            assert actual.position.tolist() == [position[0] * plan.scale_factor + position[1]]


def check_later_bits_are_hidden(problem: Problem) -> None:
    """No context changes when all bits that the chain has not yet generated are replaced."""
    image = problem.images(1)
    noise = torch.from_numpy(np.random.default_rng(0).integers(1 << problem.bits, size=image.shape, dtype=np.uint8))
    for stage, plan, _, targets in _generation(problem):
        for position, now in targets:
            changed = image ^ (noise & ~torch.from_numpy(now).to(torch.uint8)[None, :, :, None])
            positions = stage.positions(position, 1)
            seen, still = (stage.context(split_slices(each, plan.scale_factor), positions) for each in (image, changed))
            assert torch.equal(seen.cells, still.cells)
            assert torch.equal(seen.present, still.present)


def check_hidden_bits_leak(problem: Problem) -> None:
    """The same, as `spn check` does it: by what the stage's own plan says is known."""
    for stage in problem.stages:
        slices = split_slices(problem.images(2), stage.plan.scale_factor)
        assert hidden_bits_leak(stage, slices, torch.Generator().manual_seed(0)) == []


def check_round_trip(problem: Problem) -> None:
    """A chain is a bijection: the targets of its stages, inserted one by one, are the image."""
    truth = problem.images(2)
    image = torch.zeros_like(truth)
    for stage in problem.stages:
        size = stage.plan.scale_factor
        for position in stage.targets:
            target = stage.target(split_slices(truth, size), stage.positions(position, len(truth)))
            assert 0 <= target.min() <= target.max() < stage.signature.num_levels
            slices = stage.insert(split_slices(image, size), position, target)
            image = join_slices(slices)
    assert torch.equal(image, truth)


# Checks of a model.


def check_causality(problem: Problem) -> None:
    """No law depends on a sub-pixel at or after its own: every such derivative is exactly 0."""
    for _, model, _, target, context in _last_targets(problem):
        assert dependence(model, context, target).leak == 0


def check_no_blind_spot(problem: Problem) -> None:
    """Every law depends on every sub-pixel before its own."""
    for _, model, _, target, context in _last_targets(problem):
        assert dependence(model, context, target).blind == 0


def check_context_is_used(problem: Problem) -> None:
    """Every law depends on every cell of context, on whether it is empty, and on the meta-position."""
    for stage, model, _, target, context in problem.cases(8):
        pairs = []
        for cell in context.present[0].nonzero().flatten().tolist():
            others, emptied, absent = context.cells.clone(), context.cells.clone(), context.present.clone()
            others[:, cell] ^= 1
            emptied[:, cell] = 0
            absent[:, cell] = False
            dark = replace(context, cells=emptied)
            pairs += [(context, replace(context, cells=others)), (dark, replace(dark, present=absent))]
        if stage.signature.num_cells and stage.signature.num_positions > 1:
            elsewhere = (context.position + 1) % stage.signature.num_positions
            pairs.append((context, replace(context, position=elsewhere)))
        if pairs:
            one, other = (_laws(model, target, contexts) for contexts in zip(*pairs, strict=True))
            # For one of the targets: a rectifier may be off for some.
            assert ((one - other).abs().amax(-1).amax(1) > 0).all()


def _laws(model: Model, target: Tensor, contexts: Sequence[Context]) -> Tensor:
    """Give the probabilities of one target under each of several contexts."""
    stacked = Context(*(torch.cat([getattr(each, field.name) for each in contexts]) for field in fields(Context)))
    return model(target.repeat(len(contexts), 1, 1, 1), stacked).probs().unflatten(0, (len(contexts), -1))


def check_law(problem: Problem) -> None:
    """The probabilities of every sub-pixel's levels sum to 1, and are those that `log_prob` gives."""
    for stage, model, _, target, context in problem.cases():
        law = model(target, context)
        probs = law.probs()
        assert probs.shape == (*target.shape, stage.signature.num_levels)
        torch.testing.assert_close(probs.sum(-1), torch.ones(target.shape, dtype=torch.float64), atol=1e-12, rtol=0)
        for level in range(stage.signature.num_levels):
            log_prob = law.log_prob(torch.full_like(target, level)).double()
            torch.testing.assert_close(log_prob.exp(), probs[..., level], atol=1e-12, rtol=0)


def check_walk(problem: Problem) -> None:
    """The walk offers the laws that `forward` gives."""
    for _, model, _, target, context in _last_targets(problem):
        forward = model(target, context).log_prob(target).double()
        torch.testing.assert_close(replay(model, context, target), forward, atol=1e-12, rtol=0)


# Checks by enumeration, for tiny images.


def check_target_mass(problem: Problem) -> None:
    """The probabilities of all targets of a slice sum to 1."""
    for _, model, _, _, context in problem.cases(1):
        assert abs(model_mass(model, context) - 1) < 1e-12


def check_chain_mass(problem: Problem) -> None:
    """The probabilities that the chain gives all images sum to 1."""
    assert abs(chain_probabilities(problem)[1].sum().item() - 1) < 1e-10


def chain_probabilities(problem: Problem) -> tuple[Tensor, Tensor]:
    """Enumerate all images, and the probability that the chain gives each."""
    images = images_of(1 << problem.bits, problem.shape).to(torch.uint8)
    nats = torch.zeros(len(images), dtype=torch.float64)
    for stage, model in problem.parts:
        slices = split_slices(images, stage.plan.scale_factor)
        for position in stage.targets:
            nats += stage.nats(model, slices, stage.positions(position, len(images)))
    return images, (-nats).exp()


# Checks of sampling.


def sample(problem: Problem, num_images: int, batch_size: int, temperature: float = 1.0) -> Tensor:
    """Sample a whole chain."""
    images = None
    for stage, model in problem.parts:
        images = sample_chain_stage(stage, model, images, num_images, SEED, temperature, batch_size)
    assert images is not None
    return images


def check_batches(problem: Problem) -> None:
    """A sample is a function of its number alone: not of its batch's size, nor of its place in the batch."""
    together = sample(problem, num_images=3, batch_size=3)
    numbers = [2, 0]
    images = torch.zeros_like(together[numbers])
    for stage, model in problem.parts:
        slices = split_slices(images, stage.plan.scale_factor)
        images = join_slices(sample_stage(stage, model, slices, numbers, SEED))
    assert torch.equal(images, together[numbers])


def check_samples_replay(problem: Problem) -> None:
    """The laws that a sample was drawn from are those that scoring the finished sample gives."""
    watched = tuple(Watched(model) for model in problem.models)
    images = sample(replace(problem, models=watched), num_images=2, batch_size=2)
    for (stage, model), watch in zip(problem.parts, watched, strict=True):
        offered = iter(watch.offered)
        slices = split_slices(images, stage.plan.scale_factor)
        for position in stage.targets:
            positions = stage.positions(position, 2)
            target = stage.target(slices, positions)
            laws = model(target, stage.context(slices, positions)).probs().flatten(1, 3)
            for law in laws.unbind(1):
                torch.testing.assert_close(next(offered), law, atol=1e-12, rtol=0)
        assert not list(offered)


def check_frequencies(problem: Problem) -> None:
    """Samples are as frequent as their probabilities say (chi-squared; for images that can be enumerated)."""
    images, probabilities = chain_probabilities(problem)
    samples = sample(problem, num_images=min(4000, 60 * len(images)), batch_size=1000).flatten(1).long()
    places = (1 << problem.bits) ** torch.arange(samples.shape[1] - 1, -1, -1)
    codes = (samples * places).sum(1)
    assert torch.equal(images.flatten(1)[codes].long(), samples)
    counts, expected = torch.bincount(codes, minlength=len(images)), len(samples) * probabilities
    freedom = len(images) - 1
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 4 * (2 * freedom) ** 0.5


class Watched(Model):
    """A model that notes the probabilities of every law it offers."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.signature, self.offered = model, model.signature, list[Tensor]()

    def embed_target(self, levels: Tensor) -> Tensor:
        return self.model.embed_target(levels)

    def embed_context(self, context: Context) -> Tensor | None:
        return self.model.embed_context(context)

    def laws(self, embedded: Tensor, features: Tensor | None) -> Law:
        return _WatchedLaw(self.model.laws(embedded, features), self.offered)


class _WatchedLaw(Law):
    def __init__(self, law: Law, offered: list[Tensor]) -> None:
        self.law, self.offered = law, offered

    def select(self, row: int, column: int, channel: int) -> Law:
        selected = self.law.select(row, column, channel)
        self.offered.append(selected.probs())
        return selected

    def log_prob(self, levels: Tensor) -> Tensor:
        return self.law.log_prob(levels)

    def probs(self) -> Tensor:
        return self.law.probs()

    def tempered(self, temperature: float) -> Law:
        return self.law.tempered(temperature)


Check = Callable[[Problem], None]

STAGE_CHECKS: tuple[Check, ...] = (
    check_every_bit_once,
    check_contexts,
    check_later_bits_are_hidden,
    check_hidden_bits_leak,
    check_round_trip,
)
"""Checks that need no model."""

MODEL_CHECKS: tuple[Check, ...] = (
    check_causality,
    check_no_blind_spot,
    check_context_is_used,
    check_law,
    check_walk,
)

SAMPLE_CHECKS: tuple[Check, ...] = (check_batches, check_samples_replay)

MASS_CHECKS: tuple[Check, ...] = (check_target_mass, check_chain_mass)
"""Checks for images so tiny that all of them can be enumerated; and so `check_frequencies`."""


def _last_targets(problem: Problem) -> Iterator[tuple[Stage, Model, Position, Tensor, Context]]:
    """Give a few targets of every stage's last slice: it has the most context."""
    for case in problem.cases(8):
        if case[2] == case[0].targets[-1]:
            yield case


Known = np.ndarray
"""The bits generated so far of every pixel, as a mask in the image's own scale [height, width]."""


def _generation(problem: Problem) -> Iterator[tuple[Stage, StagePlan, Known, list[tuple[Position, Known]]]]:
    """Follow a chain at full resolution: what is known before each stage, and before each of its targets."""
    known = np.zeros(problem.shape[:2], dtype=int)
    for stage in problem.stages:
        plan, before, targets = stage.plan, known.copy(), []
        for m, n in plan.targets:
            targets.append(((m, n), known.copy()))
            for bit in range(*plan.bits):
                known[m :: plan.scale_factor, n :: plan.scale_factor] |= 1 << (problem.bits - 1 - bit)
        yield stage, plan, before, targets


def _expected_cells(
    image: np.ndarray,
    plan: StagePlan,
    position: Position,
    before: Known,
    now: Known,
    targets: list[tuple[Position, Known]],
) -> list[np.ndarray | None]:
    """Cut the windows out of the image at full resolution; None stands for an empty cell."""
    size = plan.scale_factor
    reach = range(-size + 1, size)
    whole = [(di, dj) for di in reach for dj in reach]
    causal = [(di, dj) for di, dj in whole if di < 0 or (di == 0 and dj < 0)]
    later = [offset for offset in whole if offset not in causal]
    cells: list[np.ndarray | None] = []
    if any(_cell(image, size, at, known, offset) is not None for at, known in targets for offset in causal):
        cells += [_cell(image, size, position, now, offset) for offset in causal]
    if any(_cell(image, size, at, before, offset) is not None for at, _ in targets for offset in later):
        cells += [_cell(image, size, position, before, offset) for offset in whole]
    return cells


def _cell(image: np.ndarray, size: int, position: Position, known: Known, offset: Position) -> np.ndarray | None:
    (m, n), (di, dj) = position, offset
    if not (0 <= m + di < size and 0 <= n + dj < size):
        return None
    i, j = np.arange(image.shape[0] // size), np.arange(image.shape[1] // size)
    pixels = np.ix_(i * size + m + di, j * size + n + dj)
    mask = np.bitwise_and.reduce(known[pixels], axis=None)
    return image[pixels] & mask if mask else None
