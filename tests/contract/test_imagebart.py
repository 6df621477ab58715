"""ImageBART beyond the contract of families and scales: the residual form, and what encoder and decoder are given."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from contract import build_problem, check_cached_walk, scales
from contract.problem import random_model
from families import BART, changed
from torch import Tensor

from spn.evaluation.random_problem import random_context
from spn.generation import SAMPLERS, choosing
from spn.models import Context, StageShape, build_model
from spn.models.imagebart import ImageBart, ImageBartSteps

KEPT = 0.6
RESIDUAL = {
    "softmax": changed(BART, residual=True),
    "mixture": changed(BART, residual=True, law="mixture"),
}
SCALE = StageShape(2, 3, 2, 4, num_cells=1, context_levels=4, num_positions=1, kept=KEPT)
"""A scale of a diffusion over codes of two channels."""
EXACTLY: dict[str, Any] = {"atol": 1e-12, "rtol": 0.0}


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
    chain, noises = scales(2, (1.0, KEPT, 0.0))
    problem = build_problem(chain, (2, 2, 1), 2, RESIDUAL["softmax"], noises=noises)
    check_cached_walk(problem)
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check_cached_walk(problem)


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
