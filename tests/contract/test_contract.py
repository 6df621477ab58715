"""The contract, for every model family and every kind of stage: slices of 3x3 pixels, and tiny images enumerated."""

from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import contract
import pytest
import torch
from contract import (
    MASS_CHECKS,
    MODEL_CHECKS,
    SAMPLE_CHECKS,
    SMALL,
    STAGE_CHECKS,
    Chain,
    Check,
    Part,
    Problem,
    build_problem,
    chains,
    ordered_chains,
    three_way,
)

from spn.config import SpnSection
from spn.generation import WholePasses, build_steps, keyed_uniforms, replay, walk
from spn.image import split_slices
from spn.models import Model

CHAINS = chains(1, 2) | ordered_chains(1, 2) | {"three_way": three_way()}

# (chain, channels, intensity, where the context enters): every kind of stage, every pair of the other three.
WIDE = (
    ("raster", 1, "embedded", "both"),
    ("raster", 3, "scaled", "both"),
    ("subscale", 1, "scaled", "pixelcnn"),
    ("subscale", 3, "embedded", "transformer"),
    ("depth", 1, "embedded", "transformer"),
    ("depth", 3, "scaled", "pixelcnn"),
    ("multidimensional", 1, "scaled", "transformer"),
    ("multidimensional", 3, "embedded", "both"),
    ("size", 1, "embedded", "pixelcnn"),
    ("rest_before_first", 1, "scaled", "both"),
    ("low_before_high", 1, "embedded", "both"),
    ("low_before_rest", 1, "scaled", "pixelcnn"),
    ("raster_then_subscale", 1, "scaled", "transformer"),
    ("size_then_raster", 1, "embedded", "both"),
    ("uneven", 1, "scaled", "both"),
    ("three_way", 1, "scaled", "both"),
    ("diagonal", 1, "scaled", "both"),
    ("diagonal", 3, "embedded", "transformer"),
    ("diagonal_multidimensional", 1, "embedded", "pixelcnn"),
    ("orders_mixed", 1, "scaled", "both"),
    ("diagonal_rest_before_first", 1, "embedded", "transformer"),
    ("column_then_raster", 1, "scaled", "pixelcnn"),
)

# (chain, shape, bits): images of which there are at most 4,096.
TINY = (
    *((name, (2, 2, 1), 2) for name in chains(1, 2) | ordered_chains(1, 2)),
    ("three_way", (2, 2, 1), 3),
    ("raster", (1, 2, 3), 2),
    ("depth", (1, 2, 3), 2),
    ("raster", (2, 2, 3), 1),
    ("subscale", (2, 2, 3), 1),
    ("size", (2, 2, 3), 1),
    ("subscale", (2, 6, 1), 1),
    ("size", (4, 2, 1), 1),
    ("raster", (3, 3, 1), 1),
)


def section(**changes: object) -> SpnSection:
    return SMALL.model_copy(update=changes)


def bits_of(chain: Chain) -> int:
    return max(part.bits[1] for part in chain.values())


@cache
def wide_problem(name: str, channels: int, intensity: str, context_enters: str, slice_side: int = 3) -> Problem:
    chain = CHAINS[name]
    side = slice_side * max(part.scale_factor for part in chain.values())
    return build_problem(
        chain, (side, side, channels), bits_of(chain), section(intensity=intensity, context_enters=context_enters)
    )


@cache
def tiny_problem(name: str, shape: tuple[int, int, int], bits: int) -> Problem:
    chain = CHAINS[name] if bits_of(CHAINS[name]) == bits else chains(bits, bits)[name]
    return build_problem(chain, shape, bits)


FAST = ("raster", "depth", "multidimensional", "low_before_rest", "orders_mixed")
"""Chains that the fast tests check."""
WIDE_CASES = [pytest.param(case, marks=[pytest.mark.slow] * (case[0] not in FAST)) for case in WIDE]


@pytest.mark.parametrize("check", [*STAGE_CHECKS, *MODEL_CHECKS], ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", WIDE_CASES, ids=lambda case: "-".join(map(str, case)))
def test_slices_of_3x3(check: Check, case: tuple[str, int, str, str]) -> None:
    check(wide_problem(*case))


@pytest.mark.parametrize("case", WIDE_CASES, ids=lambda case: "-".join(map(str, case)))
@pytest.mark.parametrize("check", SAMPLE_CHECKS, ids=lambda check: check.__name__)
def test_samples(check: Check, case: tuple[str, int, str, str]) -> None:
    check(wide_problem(*case, slice_side=2 if case[1] == 1 else 1))


@pytest.mark.parametrize("case", TINY, ids=lambda case: f"{case[0]}-{'x'.join(map(str, case[1]))}-{case[2]}bit")
@pytest.mark.parametrize("check", MASS_CHECKS, ids=lambda check: check.__name__)
def test_probabilities_of_everything_sum_to_one(check: Check, case: tuple[str, tuple[int, int, int], int]) -> None:
    check(tiny_problem(*case))


@pytest.mark.parametrize("order", ["raster", "diagonal"])
@pytest.mark.parametrize("scale_factor", [3, 4])
def test_larger_scale_factors(scale_factor: int, order: Literal["raster", "diagonal"]) -> None:
    chain = {
        "first": Part(scale_factor, "first", (0, 1)),
        "rest": Part(scale_factor, "rest", (0, 1), order),
        "low": Part(scale_factor, "all", (1, 2), order),
    }
    problem = build_problem(chain, (scale_factor, 2 * scale_factor, 1), 2)
    for check in (*STAGE_CHECKS, contract.check_causality, contract.check_walk, contract.check_cached_walk):
        check(problem)


def test_a_model_without_transformer_is_causal_too() -> None:
    chain = CHAINS["subscale"]
    problem = build_problem(chain, (6, 6, 1), 2, section(transformer_layers=0, pixelcnn_layers=3, embedder_layers=0))
    contract.check_causality(problem)
    contract.check_walk(problem)
    contract.check_cached_walk(problem)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_batches_are_put_together_in_order(batch_size: int) -> None:
    problem = tiny_problem("multidimensional", (2, 2, 1), 2)
    samples = contract.sample(problem, num_images=5, batch_size=batch_size)
    assert torch.equal(samples, contract.sample(problem, num_images=5, batch_size=5))
    assert len(samples.unique(dim=0)) > 1


@pytest.mark.parametrize("chain", ["raster", "multidimensional"])
def test_sampling_draws_from_the_exact_law(chain: str) -> None:
    contract.check_frequencies(tiny_problem(chain, (2, 2, 1), 2))


def test_low_temperature_gives_the_most_probable_levels() -> None:
    problem = wide_problem("size", 1, "embedded", "pixelcnn")
    cold = contract.sample(problem, num_images=2, batch_size=2, temperature=1e-6)
    for stage, model in problem.parts:
        slices = split_slices(cold, stage.plan.scale_factor)
        for position in stage.targets:
            positions = stage.positions(position, 2)
            target = stage.target(slices, positions)
            assert torch.equal(model(target, stage.context(slices, positions)).probs().argmax(-1), target)


def test_temperature_sharpens_samples() -> None:
    problem = tiny_problem("raster", (2, 2, 1), 2)
    images, probabilities = contract.chain_probabilities(problem)
    surprise = {
        tuple(image.flatten().tolist()): -probability.log().item()
        for image, probability in zip(images, probabilities, strict=True)
    }

    def mean_surprise(temperature: float) -> float:
        samples = contract.sample(problem, num_images=500, batch_size=500, temperature=temperature)
        return sum(surprise[tuple(image.flatten().tolist())] for image in samples) / 500

    assert mean_surprise(0.5) < mean_surprise(1.0) < mean_surprise(2.0)


class Visits(WholePasses):
    """Notes the order in which it is walked."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.visited = list[tuple[int, int, int]]()

    def observe(self, channel: int, levels: torch.Tensor) -> None:
        super().observe(channel, levels)
        self.visited.append((self._row, self._column, channel))


def test_the_walk_visits_rows_columns_and_channels_in_order() -> None:
    _, model, _, target, context = next(wide_problem("raster", 3, "scaled", "both").cases(1))
    steps = Visits(model)
    assert torch.equal(walk(steps, context, target, lambda law, level: level), target)
    assert steps.visited == sorted(steps.visited)
    assert len(set(steps.visited)) == target.numel()


def test_replay_scores_what_it_is_given() -> None:
    _, model, _, target, context = next(wide_problem("raster", 1, "embedded", "both").cases(2))
    other = target.clone()
    other[0, -1, -1] ^= 1
    scores, others = (replay(build_steps(model, 2), context, levels) for levels in (target, other))
    assert torch.equal(scores[1], others[1])
    assert not torch.equal(scores[0], others[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are captured on CUDA alone")
@pytest.mark.parametrize("channels", [1, 3])
def test_a_captured_walk_gives_the_same_sample(channels: int) -> None:
    problem = wide_problem("multidimensional", channels, "embedded", "both")
    expected = contract.sample(problem, num_images=5, batch_size=5, sampler="plain")
    on_gpu = replace(problem, models=tuple(deepcopy(model).cuda() for model in problem.models))
    # Two sizes of batch: graphs are captured anew for the second.
    assert torch.equal(contract.sample(on_gpu, num_images=5, batch_size=3), expected)


KEY: dict[str, Any] = {"seed": 1, "stage": "low", "position": (0, 1), "images": [5], "shape": (2, 3, 3)}


def test_uniforms_are_a_function_of_their_key() -> None:
    draws = keyed_uniforms(**KEY)
    assert draws.shape == (1, 2, 3, 3)
    assert ((draws >= 0) & (draws < 1)).all()
    assert len(draws.unique()) == draws.numel()  # pixels and channels differ
    torch.manual_seed(0)
    assert torch.equal(keyed_uniforms(**KEY), draws)
    assert torch.equal(keyed_uniforms(**KEY | {"images": [9, 5, 2]})[1:2], draws)


@pytest.mark.parametrize(
    "other",
    [{"seed": 2}, {"seed": -1}, {"stage": "high"}, {"images": [6]}, {"position": (1, 0)}, {"position": (0, 0)}],
    ids=str,
)
def test_uniforms_of_another_key_are_others(other: dict[str, Any]) -> None:
    draws = keyed_uniforms(**KEY)
    assert not torch.isin(keyed_uniforms(**KEY | other), draws).any()


def test_uniforms_are_uniform() -> None:
    draws = keyed_uniforms(3, "stage", (0, 0), range(2000), (4, 4, 3)).flatten()
    counts = torch.histc(draws, bins=16, min=0, max=1)
    expected = len(draws) / 16
    assert ((counts - expected) ** 2 / expected).sum() < 15 + 4 * 30**0.5
