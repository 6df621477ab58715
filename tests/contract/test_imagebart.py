"""ImageBART beyond the contract of every family: the residual form, and what its encoder and decoder are given."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from contract import MODEL_CHECKS, Check, Problem, chains, resolve
from contract.model_checks import check_cached_walk, check_target_mass
from contract.problem import Position, random_model
from families import BART, changed
from torch import Tensor

from spn.config import FamilySection
from spn.evaluation.random_problem import random_context
from spn.generation import SAMPLERS, choosing
from spn.models import Context, Model, StageShape, build_model
from spn.models.imagebart import ImageBart, ImageBartSteps
from spn.stages import Stage

KEPT = 0.6
RESIDUAL = {
    "softmax": changed(BART, residual=True),
    "mixture": changed(BART, residual=True, law="mixture"),
}
SCALE = StageShape(2, 3, 2, 4, num_cells=1, context_levels=4, num_positions=1, kept=KEPT)
"""A scale of a diffusion over codes of two channels."""
EXACTLY: dict[str, Any] = {"atol": 1e-12, "rtol": 0.0}


@dataclass(frozen=True)
class Noised(Problem):
    """Stages that are also given their targets with noise, of which `KEPT` survives."""

    def cases(self, count: int = 2) -> Iterator[tuple[Stage, Model, Position, Tensor, Context]]:
        """Add the noised target to every context."""
        generator = torch.Generator().manual_seed(6)
        for stage, model, position, target, context in super().cases(count):
            noised = torch.randint(stage.shape.num_levels, target.shape, generator=generator)
            yield stage, model, position, target, replace(context, noised=noised)


def noised(section: FamilySection, chain: str, shape: tuple[int, int, int]) -> Problem:
    problem = resolve(chains(1, 2)[chain], shape, 2)
    models = (random_model(section, replace(each.shape, kept=KEPT), seed) for seed, each in enumerate(problem.stages))
    return Noised(problem.shape, problem.bits, problem.plans, tuple(models))


@pytest.mark.parametrize("check", MODEL_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("law", RESIDUAL)
def test_the_residual_form_keeps_the_contract(law: str, check: Check) -> None:
    check(noised(RESIDUAL[law], "multidimensional", (4, 4, 1)))
    check(noised(RESIDUAL[law], "depth", (2, 3, 3)))


@pytest.mark.parametrize("law", RESIDUAL)
def test_probabilities_of_the_residual_form_sum_to_one(law: str) -> None:
    check_target_mass(noised(RESIDUAL[law], "subscale", (2, 4, 1)))
    check_target_mass(noised(RESIDUAL[law], "depth", (1, 1, 3)))


def drawn(count: int = 3, shape: StageShape = SCALE) -> tuple[Tensor, Context]:
    generator = torch.Generator().manual_seed(2)
    levels = torch.randint(shape.num_levels, (count, shape.height, shape.width, shape.channels), generator=generator)
    return levels, random_context(shape, count, generator)


@pytest.mark.parametrize("law", RESIDUAL)
@pytest.mark.parametrize("kept", [0.0, KEPT, 0.999])
def test_the_residual_form_multiplies_by_what_the_forward_process_leaves(law: str, kept: float) -> None:
    shape = replace(SCALE, kept=kept)
    (levels, context), section = drawn(), RESIDUAL[law]
    plain = random_model(changed(section, residual=False), shape, 1)(levels, context).probs()
    assert context.noised is not None
    process = torch.full_like(plain, (1 - kept) / shape.num_levels)
    process.scatter_add_(-1, context.noised[..., None], torch.full_like(plain, kept))
    expected = plain * process
    found = random_model(section, shape, 1)(levels, context).probs()
    torch.testing.assert_close(found, expected / expected.sum(-1, keepdim=True), **EXACTLY)


def test_the_residual_form_is_without_effect_on_other_stages() -> None:
    levels, context = drawn()
    shape, context = replace(SCALE, kept=None), replace(context, noised=None)
    one, other = (random_model(section, shape, 1)(levels, context).probs() for section in (BART, RESIDUAL["softmax"]))
    assert torch.equal(one, other)


@pytest.mark.parametrize("kept", [1.0, -0.1])
def test_codes_that_always_survive_are_no_problem_to_learn(kept: float) -> None:
    with pytest.raises(AssertionError):
        build_model(BART, replace(SCALE, kept=kept))


@pytest.mark.parametrize("law", RESIDUAL)
def test_samplers_of_the_residual_form_agree(law: str) -> None:
    model, draws = random_model(RESIDUAL[law], SCALE, 1), list[Tensor]()
    for sampler in SAMPLERS.values():
        # The second slice with the buffers of the first.
        draw, generator = sampler(model, choosing(0.8)), torch.Generator().manual_seed(3)
        for _ in range(2):
            uniforms = torch.rand(3, 2, 3, 2, generator=generator, dtype=torch.float64)
            draws.append(draw(random_context(SCALE, 3, generator), uniforms))
    assert len(draws) == 6
    for first, second in zip(draws[2::2], draws[3::2], strict=True):
        assert torch.equal(first, draws[0])
        assert torch.equal(second, draws[1])
    assert not torch.equal(draws[0], draws[1])


def noise_of_the_first_slice(patch: pytest.MonkeyPatch) -> None:
    sound = ImageBartSteps.begin

    def begin(self: ImageBartSteps, context: Context) -> None:
        before = None if self._log_prior is None else self._log_prior.clone()
        sound(self, context)
        self._log_prior = self._log_prior if before is None else before

    patch.setattr(ImageBartSteps, "begin", begin)


def noise_forgotten_in_the_step_form(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ImageBartSteps, "law", lambda self, channel: self._head.law(channel))


@pytest.mark.parametrize("plant", [noise_of_the_first_slice, noise_forgotten_in_the_step_form])
def test_planted_bugs_of_the_residual_step_form_are_caught(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check_cached_walk(noised(RESIDUAL["softmax"], "subscale", (4, 4, 1)))


def test_every_channel_and_cell_has_embeddings_of_its_own() -> None:
    """Levels swapped between channels or between cells are another context, and another target."""
    shape = StageShape(2, 2, 2, 4, num_cells=2, context_levels=4, num_positions=1)
    model, (levels, context) = random_model(BART, shape, 1), drawn(1, shape)
    features = model.embed_context(context)
    assert features is not None
    for dim in (1, 4):
        swapped = model.embed_context(replace(context, cells=context.cells.flip(dim)))
        assert swapped is not None
        assert (features - swapped).abs().max() > 1e-3
    one, other = (model.embed_target(each)[..., :-1].sum(-2) for each in (levels, levels.flip(-1)))
    assert (one - other).abs().max() > 1e-3


def test_there_is_an_encoder_only_if_there_are_cells_of_context() -> None:
    with_cells, without = (build_model(BART, replace(SCALE, num_cells=cells, num_classes=3)) for cells in (1, 0))
    assert isinstance(with_cells, ImageBart)
    assert isinstance(without, ImageBart)
    assert (with_cells.start, without.encoder) == (None, None)
    assert with_cells.encoder is not None
    assert with_cells.encoder.label is not None
    assert not any("context" in name for name, _ in without.named_parameters())
