"""Inpainting by every kind of chain: known pixels stay, hidden ones are drawn from what is known and nothing else."""

from functools import cache

import pytest
import torch
from contract import Part, Problem, chains
from contract.problem import SMALL, build_problem, random_model
from torch import Tensor

from spn.config import tile
from spn.config.diffusion import Noise
from spn.generation import SAMPLERS, choosing, forcing, inpaint_chain_stage, sample_stage
from spn.generation.inpaint import _Task
from spn.image import join_slices, split_slices

BITS, SHAPE, COUNT, SEED = 3, (4, 4, 2), 3, 7
KINDS = ("raster", "multidimensional", "size_then_raster", "scales", "scales and low bits")


@cache
def problem(kind: str) -> Problem:
    if kind in (pixels := chains(2, BITS)):
        return build_problem(pixels[kind], SHAPE, BITS)
    codes = (0, BITS - 1) if "low" in kind else (0, BITS)
    noises = {f"scale{scale}": Noise(scale, (1.0, 0.8, 0.4, 0.0)) for scale in (3, 2, 1)}
    parts = dict.fromkeys(noises, Part(1, "all", codes))
    parts |= {"low": Part(2, "all", (BITS - 1, BITS))} if "low" in kind else {}
    without = Problem(SHAPE, BITS, tile("chain", parts, BITS, noises), ())
    models = tuple(random_model(SMALL, stage.shape, seed) for seed, stage in enumerate(without.stages))
    return Problem(SHAPE, BITS, without.plans, models)


def images(seed: int = 0) -> Tensor:
    return torch.randint(1 << BITS, (COUNT, *SHAPE), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def hidden_pixels() -> Tensor:
    """Hide other pixels of each image, in no order."""
    return torch.rand((COUNT, *SHAPE[:2]), generator=torch.Generator().manual_seed(1)) < 0.6


@cache
def filled(kind: str, repeats: int = 1) -> Tensor:
    """Fill in the hidden pixels of the images, which several tests compare with."""
    return fill(kind, images(), hidden_pixels(), repeats)


def fill(
    kind: str, given: Tensor, hidden: Tensor, repeats: int = 1, sampler: str = "cached", batch_size: int = 64
) -> Tensor:
    filled = torch.zeros_like(given)
    for stage, model in problem(kind).parts:
        filled = inpaint_chain_stage(
            stage,
            model,
            filled,
            given,
            hidden,
            seed=SEED,
            temperature=1.0,
            repeats=repeats,
            sampler=sampler,
            batch_size=batch_size,
        )
    return filled


@pytest.mark.parametrize("kind", KINDS)
def test_known_pixels_stay_and_hidden_ones_are_drawn(kind: str) -> None:
    assert torch.equal(filled(kind, 2)[~hidden_pixels()], images()[~hidden_pixels()])
    changed = filled(kind, 2)[hidden_pixels()] != images()[hidden_pixels()]
    assert changed.any(dim=-1).float().mean() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_levels_of_hidden_pixels_do_not_count(kind: str) -> None:
    others = torch.where(hidden_pixels()[..., None], images(seed=2), images())
    assert torch.equal(fill(kind, others, hidden_pixels(), 2), filled(kind, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_with_all_pixels_hidden_it_samples(kind: str) -> None:
    everything = torch.ones_like(hidden_pixels())
    slices = split_slices(torch.zeros_like(images()), 1)
    for stage, model in problem(kind).parts:
        cut = split_slices(join_slices(slices), stage.plan.scale_factor)
        slices = sample_stage(stage, SAMPLERS["cached"](model, choosing()), cut, range(COUNT), SEED)
    assert torch.equal(fill(kind, images(), everything), join_slices(slices))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multidimensional", "scales"])
def test_all_samplers_fill_in_the_same(kind: str) -> None:
    for sampler in SAMPLERS.keys() - {"cached"}:
        assert torch.equal(fill(kind, images(), hidden_pixels(), sampler=sampler), filled(kind))


def changes_after(kind: str) -> bool:
    """Tell whether the first pixel, hidden, depends on the second, known, in any of many images."""
    given = images()[:1].expand(200, -1, -1, -1).clone()
    hidden = torch.zeros(given.shape[:3], dtype=torch.bool)
    hidden[:, 0, 0] = True
    before = fill(kind, given, hidden)
    given[:, 0, 1] = (1 << BITS) - 1 - given[:, 0, 1]
    return not torch.equal(fill(kind, given, hidden)[:, 0, 0], before[:, 0, 0])


def test_a_scale_sees_known_pixels_that_come_after_and_a_raster_does_not() -> None:
    assert changes_after("scales")
    assert not changes_after("raster")


@pytest.mark.parametrize("kind", ["multidimensional", "scales"])
def test_batches_do_not_count(kind: str) -> None:
    assert torch.equal(fill(kind, images(), hidden_pixels(), 2, batch_size=2), filled(kind, 2))


@pytest.mark.slow
def test_repeats_draw_a_scale_anew() -> None:
    once, thrice = (fill("scales", images(), hidden_pixels(), repeats) for repeats in (1, 3))
    assert not torch.equal(once, thrice)
    assert torch.equal(fill("raster", images(), hidden_pixels(), 3), fill("raster", images(), hidden_pixels()))


def task_of_scale(scale: int, known: Tensor, hidden: Tensor) -> tuple[_Task, Noise]:
    stage, model = list(problem("scales").parts)[3 - scale]  # the last scale comes first
    assert stage.plan.noise is not None
    draw = SAMPLERS["cached"](model, forcing(choosing()))
    parts = split_slices(known, 1), split_slices(hidden[..., None], 1)
    return _Task(stage, draw, *parts, range(len(known)), SEED, None, lambda: None), stage.plan.noise


@pytest.mark.parametrize(("scale", "survival"), [(3, 0.4), (2, 0.8), (1, 1.0)])
def test_known_pixels_are_as_noised_as_those_of_their_scale(scale: int, survival: float) -> None:
    known = torch.full((400, *SHAPE), 5, dtype=torch.uint8)
    task, noise = task_of_scale(scale, known, torch.zeros(known.shape[:3], dtype=torch.bool))
    kept = (task._known_at(noise) == 5).double().mean().item()
    # What does not survive is any level, with equal chances. The same draws for every scale would keep 0.56 for 0.475.
    assert kept == pytest.approx(survival + (1 - survival) / 2**BITS, abs=0.02)


def test_what_is_known_of_the_scale_above_stays_when_it_is_drawn_again() -> None:
    task, noise = task_of_scale(2, images(), hidden_pixels())
    filled, above = split_slices(images(4), 1), split_slices(images(3), 1)
    again = join_slices(task._noised_again(filled, above, noise, "again"))
    assert torch.equal(again[~hidden_pixels()], images(3)[~hidden_pixels()])
    assert not torch.equal(again, images(3))
