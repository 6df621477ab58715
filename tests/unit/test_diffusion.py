"""Multinomial diffusion: closed forms against matrices, and the bound of an exact reverse process, which is tight."""

import math
from collections.abc import Callable

import pytest
import torch
from contract import Part
from jaxtyping import Float64
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from spn.config import InputError, tile
from spn.config.diffusion import GeometricSchedule, ListedSchedule, Noise, ScheduleSection
from spn.diffusion import noised, posterior, transition
from spn.likelihood import Categorical
from spn.models import Context, Model
from spn.stages import build_stage
from spn.stages.scale import Scale

K = 4
SHAPE = (1, 2, 1)
KEPT = (1.0, 0.7, 0.3, 0.0)
IMAGES = torch.cartesian_prod(torch.arange(K), torch.arange(K))
"""All images of two codes, [16, 2]."""


def test_a_geometric_schedule_is_the_papers() -> None:
    schedule = GeometricSchedule(name="geometric", scales=4)
    assert schedule.kept == (1, 0.75, 0.5, 0.25, 0)
    betas = [1 - Noise(scale, schedule.kept).survival for scale in range(1, 5)]
    assert betas == pytest.approx([1 / (4 - scale + 1) for scale in range(1, 5)], abs=1e-15)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.5, 0.1], "expected a schedule that ends in noise, which keeps 0 of the codes, got 0.1"),
        ([0.5, 0.7, 0], r"expected shares that fall from scale to scale, got \[0.5, 0.7, 0.0\]"),
        ([0.5, 0.5, 0], "expected shares that fall"),
        ([], "at least 1 item"),
        ([1.0, 0], "less than 1"),
        ([0.5, -0.1, 0], "greater than or equal to 0"),
    ],
)
def test_a_listed_schedule_falls_and_ends_in_noise(shares: list[float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(ScheduleSection).validate_python({"name": "listed", "shares": tuple(shares)})


def test_a_listed_schedule_begins_with_the_codes() -> None:
    schedule = ListedSchedule(name="listed", shares=(0.636, 0))
    assert (schedule.kept, schedule.scales) == ((1, 0.636, 0), 2)


def matrix(kept: float) -> Float64[Tensor, "4 4"]:
    """Write the transition matrix by its definition."""
    return kept * torch.eye(K, dtype=torch.float64) + (1 - kept) * torch.full((K, K), 1 / K, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_posterior_is_that_of_bayes(scale: int) -> None:
    steps = [matrix(Noise(each, KEPT).survival) for each in range(1, scale + 1)]
    before = torch.linalg.multi_dot(steps[:-1]) if len(steps) > 2 else [torch.eye(K).double(), *steps][len(steps) - 1]
    # [x_0, x_{t-1}, x_t]: how likely both are after x_0, divided by how likely x_t is.
    joint = before[:, :, None] * steps[-1][None]
    expected = joint / joint.sum(1, keepdim=True)
    clean, later = torch.cartesian_prod(torch.arange(K), torch.arange(K)).T
    actual = posterior(clean, later, KEPT[scale - 1], Noise(scale, KEPT).survival, K)
    torch.testing.assert_close(actual, expected[clean, :, later], rtol=0, atol=1e-12)


def test_the_marginal_is_the_product_of_the_steps() -> None:
    product = torch.linalg.multi_dot([matrix(Noise(each, KEPT).survival) for each in (1, 2)])
    torch.testing.assert_close(transition(torch.arange(K), KEPT[2], K), product, rtol=0, atol=1e-12)


def test_noise_keeps_or_draws_uniformly() -> None:
    uniforms = torch.rand((2, 40_000), generator=torch.Generator().manual_seed(1))
    drawn = noised(torch.full((40_000,), 2), 0.6, K, *uniforms)
    shares = torch.bincount(drawn, minlength=K) / len(drawn)
    assert shares.tolist() == pytest.approx([0.1, 0.1, 0.7, 0.1], abs=4 * math.sqrt(0.25 / len(drawn)))
    assert torch.equal(noised(drawn, 1.0, K, *uniforms), drawn)


class ExactReverse(Model):
    """The reverse process of a known distribution of images: every law by enumeration."""

    def __init__(self, stage: Scale, table: Float64[Tensor, "later earlier"]) -> None:
        super().__init__()
        self.shape = stage.shape
        self.table = table.unflatten(1, (K, K))
        """p(x_{t-1} | x_t), by the number of x_t and both codes of x_{t-1}."""

    def embed_target(self, levels: Tensor) -> Tensor:
        """Not used."""
        raise NotImplementedError

    embed_context = laws = embed_target  # type: ignore[assignment]

    def forward(self, levels: Tensor, context: Context) -> Categorical:
        """Return the law of the first code, and of the second given the first."""
        seen = context.noised
        later = torch.zeros(len(levels), dtype=torch.long) if seen is None else number(seen)
        joint, image = self.table[later], torch.arange(len(levels))
        first = joint.sum(2)
        second = joint[image, levels[:, 0, 0, 0]]
        return Categorical(torch.stack((first, second / second.sum(1, keepdim=True)), dim=1).log()[:, None, :, None])


def number(levels: Tensor) -> Tensor:
    """Number images of two codes as in IMAGES."""
    return levels.flatten(1) @ torch.tensor([K, 1])


def forward_tables() -> tuple[Tensor, list[Tensor]]:
    """Draw a distribution of images, and return it with the transitions of whole images, scale by scale."""
    probs = torch.rand(K**2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    steps = [matrix(Noise(scale, KEPT).survival) for scale in (1, 2, 3)]
    return probs / probs.sum(), [torch.kron(step, step) for step in steps]


def scale_stage(scale: int, objective: str = "kl") -> Scale:
    """Build scale t of a chain over images of two codes."""
    noises = {f"scale{t}": Noise(t, KEPT, objective) for t in (3, 2, 1)}  # type: ignore[arg-type]
    plans = tile("chain", dict.fromkeys(noises, Part(1, "all", (0, 2))), 2, noises)
    stage = build_stage(plans[3 - scale], SHAPE)
    assert isinstance(stage, Scale)
    return stage


def exact_bound(change: Callable[[Scale], None] = lambda stage: None) -> Tensor:
    """Return the bound of the exact reverse process on -log p of each image, all draws enumerated."""
    probs, steps = forward_tables()
    bound = torch.zeros(K**2, dtype=torch.float64)
    marginal, kept = probs, torch.eye(K**2, dtype=torch.float64)  # q(x_{t-1}), and q(x_{t-1} | x_0)
    clean, earlier, later = torch.cartesian_prod(*[torch.arange(K**2)] * 3).T
    for scale, step in enumerate(steps, 1):
        stage = scale_stage(scale)
        change(stage)
        joint = (marginal[:, None] * step).T  # [x_t, x_{t-1}]
        model = ExactReverse(stage, joint / joint.sum(1, keepdim=True))
        slices = IMAGES[clean].view(-1, 1, 1, *SHAPE).to(torch.uint8)
        position = torch.zeros(len(clean), 2, dtype=torch.long)
        levels = (IMAGES[each].view(-1, *SHAPE) for each in (earlier, later))
        terms = stage.term(model, slices, position, None, *levels)
        weights = kept[clean, earlier] * step[earlier, later]
        bound.index_add_(0, clean, torch.where(weights > 0, weights * terms, 0))
        marginal, kept = marginal @ step, kept @ step
    return bound


def test_the_bound_of_an_exact_reverse_process_is_its_negative_log_likelihood() -> None:
    probs, _ = forward_tables()
    torch.testing.assert_close(exact_bound(), -probs.log(), rtol=0, atol=1e-12)


def test_a_posterior_of_the_scale_above_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scale, "_kept", property(lambda stage: KEPT[stage.noise.scale]))
    probs, _ = forward_tables()
    assert ((exact_bound() + probs.log()).abs() > 1e-3).any()


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_both_objectives_have_the_same_gradient_in_the_mean(scale: int) -> None:
    """The cross-entropy with a draw exceeds the divergence by the posterior's entropy, which no weight changes."""
    draws, (probs, steps) = 20_000, forward_tables()
    stages = [scale_stage(scale, objective) for objective in ("kl", "cross_entropy")]
    marginal = torch.linalg.multi_dot([probs[None], torch.eye(K**2).double(), *steps[: scale - 1]])
    joint = (marginal.T * steps[scale - 1]).T
    model = ExactReverse(stages[0], joint / joint.sum(1, keepdim=True))
    slices = IMAGES[5].view(1, 1, 1, *SHAPE).expand(draws, -1, -1, -1, -1, -1).to(torch.uint8)
    found = []
    for stage in stages:
        with torch.random.fork_rng():
            torch.manual_seed(scale)
            found.append(stage.loss(model, slices, torch.zeros(draws, 2, dtype=torch.long)))
    kl, cross_entropy = found
    with torch.random.fork_rng():
        torch.manual_seed(scale)
        clean = stages[0].target(slices, torch.zeros(draws, 2, dtype=torch.long))
        _, later = stages[0].draw(clean)
    weights = posterior(clean, later, KEPT[scale - 1], stages[0].noise.survival, K)
    entropy = -torch.xlogy(weights, weights).flatten(1).sum(1)
    difference = cross_entropy - kl - entropy
    assert abs(difference.mean()) <= 5 * difference.std() / math.sqrt(draws)
    assert (difference.std() > 0.01) == (scale > 1)


def test_the_context_of_a_scale_is_the_scale_above_and_nothing_of_its_own() -> None:
    for scale in (1, 2):
        stage = scale_stage(scale)
        assert (stage.shape.num_cells, stage.shape.kept) == (1, KEPT[scale] / KEPT[scale - 1])
        slices = torch.tensor([2, 1], dtype=torch.uint8).view(1, 1, 1, *SHAPE)
        context = stage.context(slices, torch.zeros(1, 2, dtype=torch.long))
        assert context.noised is not None
        assert context.cells.flatten().tolist() == context.noised.flatten().tolist() == [2, 1]
    last = scale_stage(3)
    assert (last.shape.num_cells, last.shape.kept) == (0, None)
    assert last.context(torch.zeros(1, 1, 1, *SHAPE, dtype=torch.uint8), torch.zeros(1, 2).long()).noised is None


WHOLE = Part(1, "all", (0, 2))


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ([3, 2], "expected scale 1 of the same schedule, on the same cells, after scale2, got the end of the chain"),
        ([3, 1], "expected scale 2 of the same schedule, on the same cells, after scale3, got scale1"),
        ([2, 1], "expected scale 3 first, the last of the schedule, got scale 2 in scale2"),
        ([3, 0], "expected scale 2 of the same schedule, on the same cells, after scale3, got scale0"),
    ],
)
def test_a_chain_lists_all_scales_from_the_last_to_the_first(scales: list[int], message: str) -> None:
    noises = {f"scale{scale}": Noise(scale, KEPT) for scale in scales if scale}
    with pytest.raises(InputError, match=message):
        tile("chain", {f"scale{scale}": WHOLE for scale in scales}, 2, noises)


def test_scales_are_on_the_same_cells() -> None:
    noises = {f"scale{scale}": Noise(scale, (1.0, 0.5, 0.0)) for scale in (2, 1)}
    parts = {"scale2": Part(1, "all", (0, 1)), "scale1": Part(1, "all", (0, 2))}
    with pytest.raises(InputError, match="expected scale 1 of the same schedule, on the same cells, after scale2"):
        tile("chain", parts, 2, noises)


def test_low_bits_after_the_scales_see_the_codes_alone() -> None:
    noises = {f"scale{scale}": Noise(scale, (1.0, 0.5, 0.0)) for scale in (2, 1)}
    parts = {"scale2": WHOLE, "scale1": WHOLE, "low": Part(1, "all", (2, 5))}
    last, first, low = tile("chain", parts, 5, noises)
    assert [plan.known for plan in (last, first, low)] == [((0,),), ((24,),), ((24,),)]
    assert low.high_levels == 4
