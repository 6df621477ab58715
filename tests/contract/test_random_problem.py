"""What likelihoods are checked on: which problems are drawn, and what is measured of models that are known by hand."""

import math

import pytest
import torch
from contract import SMALL
from torch import Tensor

from spn.evaluation.dependence import dependence, sight
from spn.evaluation.mass import images_of
from spn.evaluation.random_problem import random_context, random_model, random_problem
from spn.likelihood import Law
from spn.models import Context, Model, StageShape

FULL = StageShape(
    3, 5, 2, 4, 6, 16, num_positions=9, high_levels=8, num_classes=7, num_words=5, caption_length=3, kept=0.5
)
"""A problem that has everything, no two of its sizes the same where that can be."""
COUNT = 200


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def levels_of(tensor: Tensor | None, num_levels: int, *shape: int) -> bool:
    """Tell whether a tensor has this shape, and every level that there is."""
    return tensor is not None and tensor.shape == shape and tensor.unique().tolist() == list(range(num_levels))


def test_every_level_of_every_part_of_a_problem_is_drawn() -> None:
    model, context, levels = random_problem(SMALL, FULL, COUNT, seeded())
    assert model.shape == FULL
    assert levels_of(levels, 4, COUNT, 3, 5, 2)
    assert levels_of(context.cells, 16, COUNT, 6, 3, 5, 2)
    assert levels_of(context.position, 9, COUNT)
    assert levels_of(context.high, 8, COUNT, 3, 5, 2)
    assert levels_of(context.label, 7, COUNT)
    assert levels_of(context.caption, 5, COUNT, 3)
    assert levels_of(context.noised, 4, COUNT, 3, 5, 2)
    assert context.present.dtype == torch.bool
    assert context.present.shape == (COUNT, 6)
    assert context.present.all()


def test_what_a_stage_does_not_have_is_not_drawn() -> None:
    context = random_context(StageShape(3, 5, 2, 4, 0, 16, num_positions=1), 2, seeded())
    assert context.cells.shape == (2, 0, 3, 5, 2)
    assert (context.high, context.label, context.caption, context.noised) == (None, None, None, None)
    two = random_context(StageShape(3, 5, 2, 4, 0, 16, num_positions=1, high_levels=2, num_classes=1), COUNT, seeded())
    assert levels_of(two.high, 2, COUNT, 3, 5, 2)
    assert levels_of(two.label, 1, COUNT)


def test_a_problem_is_drawn_from_its_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    found = []
    for seed, others in ((1, 1), (1, 2), (2, 1)):
        torch.manual_seed(others)
        model, context, levels = random_problem(SMALL, FULL, 4, seeded(seed))
        found.append([*model.parameters(), levels, *vars(context).values()])
    torch.manual_seed(1)
    random_problem(SMALL, FULL, 4, seeded())
    assert torch.equal(torch.random.get_rng_state(), before)
    one, again, other = found
    assert all(torch.equal(left, right) for left, right in zip(one, again, strict=True))
    # `present` is the one part that is not drawn.
    assert sum(torch.equal(left, right) for left, right in zip(one, other, strict=True)) == 1


def test_every_weight_is_random_scaled_by_what_it_adds_up_and_exact() -> None:
    wide = SMALL.model_copy(update={"width": 32, "pixelcnn_width": 64})
    model = random_model(wide, FULL, seeded())
    assert not model.training
    vectors, matrices = list[Tensor](), list[Tensor]()
    for parameter in model.parameters():
        assert parameter.dtype == torch.float64
        assert parameter.count_nonzero() == parameter.numel()
        if parameter.ndim == 1:
            vectors.append(parameter.detach())
        else:
            fan_in = math.prod(parameter.shape[1:])
            matrices.append(parameter.detach().flatten() * math.sqrt(fan_in))
    for weights, deviation in ((torch.cat(vectors), 0.3), *((each, 1.0) for each in matrices if len(each) > 500)):
        assert abs(weights.mean()) < 0.2 * deviation
        assert weights.std() == pytest.approx(deviation, rel=0.15)


def test_images_are_enumerated() -> None:
    expected = [[[a, b]] for a in range(3) for b in range(3)]
    assert images_of(3, (1, 2)).tolist() == expected
    assert images_of(2, (2, 2, 3)).unique(dim=0).shape == (2**12, 2, 2, 3)


# Models whose dependences are known by hand.


class Linear(Law):
    """Probabilities of two levels, and log-probabilities, that are given."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    def probs(self) -> Tensor:
        """Return the score for both levels, with opposite signs, as probabilities that sum to one would change."""
        return torch.stack([self.scores, 1 - self.scores], dim=-1)

    def log_prob(self, levels: Tensor) -> Tensor:
        """Return the score."""
        return self.scores

    select = tempered = tilted = None  # type: ignore[assignment]


class ByHand(Model):
    """Laws that are sums of what `weights[law, sub-pixel]` makes of the target, and of features of the context.

    A sub-pixel enters as two units of opposite signs, and only in targets whose first level is `seen_where`, if that is
    given. `reaches[pixel, context]` says which features are made of which pixels of context.
    """

    steps = None

    def __init__(self, shape: StageShape, weights: Tensor, reaches: Tensor, seen_where: int | None = None) -> None:
        super().__init__()
        self.shape, self.weights, self.reaches, self.seen_where = shape, weights, reaches, seen_where

    def embed_target(self, levels: Tensor) -> Tensor:
        """Embed a sub-pixel as two units."""
        return torch.stack([levels, -levels], dim=-1).double()

    def embed_context(self, context: Context) -> Tensor | None:
        """Return one feature for each pixel, made of the last cell."""
        assert ((context.cells >= 0) & (context.cells < self.shape.context_levels)).all()
        pixels = context.cells[:, -1].double().sum(-1).flatten(1)
        return (pixels @ self.reaches.T).view(-1, self.shape.height, self.shape.width, 1)

    def laws(self, embedded: Tensor, embedded_context: Tensor | None, context: Context) -> Linear:
        """Add up; the meta-position counts as well."""
        assert embedded_context is not None
        embedded_context = embedded_context + context.position[:, None, None, None]
        here = embedded[..., 0].flatten(1), embedded[..., 1].flatten(1)
        scores = (here[0] - here[1]) @ self.weights.T
        if self.seen_where is not None:
            scores = scores * (here[0][:, :1] == self.seen_where)
        return Linear(scores.view(embedded.shape[:-1]) + embedded_context)


SLICE = StageShape(2, 2, 1, 4, 1, 8, num_positions=1)
LEVELS = torch.arange(3)[:, None, None, None].expand(3, 2, 2, 1)
"""Three targets, of levels 0, 1 and 2."""


def of_weights(weights: Tensor, seen_where: int | None = None) -> tuple[float, int]:
    """Measure what laws with these weights depend on."""
    model = ByHand(SLICE, weights, torch.eye(4, dtype=torch.float64), seen_where)
    found = dependence(model, random_context(SLICE, 3, seeded()), LEVELS)
    return found.leak, found.blind


BEFORE = torch.ones(4, 4, dtype=torch.float64).tril(-1)
"""Every law depends on every sub-pixel before its own."""


@pytest.mark.parametrize("seen_where", [None, 0, 2])
def test_laws_that_depend_on_all_before_them_neither_leak_nor_are_blind(seen_where: int | None) -> None:
    assert of_weights(BEFORE, seen_where) == (0, 0)


@pytest.mark.parametrize("seen_where", [None, 1])
@pytest.mark.parametrize(("law", "sub_pixel"), [(0, 0), (0, 3), (2, 2), (1, 2), (3, 3)])
def test_a_law_that_depends_on_what_is_not_before_it_leaks(law: int, sub_pixel: int, seen_where: int | None) -> None:
    weights = BEFORE.clone()
    weights[law, sub_pixel] = 1000
    # Both units change with the sub-pixel, and the two levels in opposite directions, of random lengths below one.
    leak, blind = of_weights(weights, seen_where)
    assert blind == 0
    assert 0 < leak < 2 * 1000
    weights[law, sub_pixel] = 2000
    assert of_weights(weights, seen_where)[0] == pytest.approx(2 * leak)
    weights[0, 1] = 1e-3
    assert of_weights(weights, seen_where)[0] == pytest.approx(2 * leak)


def test_what_no_law_depends_on_is_counted_as_blind() -> None:
    weights = BEFORE.clone()
    weights[2, 0] = weights[3, 2] = 0
    assert of_weights(weights) == (0, 2)
    assert of_weights(torch.zeros(4, 4, dtype=torch.float64)) == (0, 6)


def test_a_reach_is_counted_in_rows_and_in_columns() -> None:
    wide = StageShape(3, 4, 2, 4, 2, 8, num_positions=1)
    for law, pixel, reach in ((0, 0, 0), (0, 3, 3), (11, 8, 3), (1, 9, 2), (4, 3, 3), (5, 10, 1)):
        reaches = torch.zeros(12, 12, dtype=torch.float64)
        reaches[law, pixel] = 1
        model = ByHand(wide, torch.zeros(24, 24, dtype=torch.float64), reaches)
        found = sight(model, random_context(wide, 2, seeded()), torch.zeros(2, 3, 4, 2, dtype=torch.long))
        assert found is not None
        assert found.reach == reach
        assert found.changed.tolist() == list(range(12))
        assert found.sees.nonzero().tolist() == [[law, pixel]]
        assert len(found.blind) == 12 * 12 - 1
        assert (law, pixel) not in found.blind


class Noisy(Linear):
    """A law that is a bound: it draws noise."""

    def log_prob(self, levels: Tensor) -> Tensor:
        """Return the score, with noise."""
        return self.scores + torch.rand_like(self.scores)


def test_the_noise_of_a_bound_is_no_dependence(monkeypatch: pytest.MonkeyPatch) -> None:
    reaches = torch.zeros(4, 4, dtype=torch.float64)
    reaches[3, 1] = 1
    model = ByHand(SLICE, BEFORE, reaches)
    sound = ByHand.laws
    monkeypatch.setattr(ByHand, "laws", lambda *arguments: Noisy(sound(*arguments).scores))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    found = sight(model, random_context(SLICE, 3, seeded()), LEVELS)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert found is not None
    assert found.sees.nonzero().tolist() == [[3, 1]]
