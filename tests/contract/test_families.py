"""The contract for every other model family, and for every law: in stages of every kind, whole and step by step."""

import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import contract
import pytest
import torch
from contract import (
    MASS_CHECKS,
    MODEL_CHECKS,
    SAMPLE_CHECKS,
    SMALL,
    Check,
    Part,
    Problem,
    build_problem,
    chains,
    scales,
)
from families import PLUS_PLUS, SCALES, SECTIONS, changed

from spn.config import FamilySection, PixelCnnPpSection
from spn.evaluation.random_problem import random_context
from spn.generation import WholePasses, build_steps
from spn.layers import recompute_layers
from spn.models import StageShape, build_model

CHAINS = chains(1, 2)

# (family, chain, channels, side of a slice): no context, slices beside slices, low bits beside high ones, all of it.
CASES = (
    ("spn_mixture", "depth", 3, 3),
    ("spn_mixture", "multidimensional", 1, 2),
    ("spn_mixture", "low_before_high", 1, 2),
    ("spn_placed", "depth", 3, 3),
    ("spn_placed", "multidimensional", 1, 2),
    ("spn_head", "depth", 3, 3),
    ("spn_head", "multidimensional", 3, 2),
    ("spn_head_softmax", "raster", 3, 3),
    ("gated_pixelcnn", "raster", 3, 3),
    ("gated_pixelcnn", "multidimensional", 1, 2),
    ("gated_pixelcnn_mixture", "depth", 3, 3),
    ("gated_pixelcnn_head", "depth", 3, 3),
    ("pixelcnn_pp", "depth", 3, 4),
    ("pixelcnn_pp", "multidimensional", 1, 4),
    ("pixelcnn_pp_placed", "depth", 3, 4),
    ("pixelcnn_pp_softmax", "depth", 3, 2),
    ("pixelcnn_pp_no_short_cuts", "raster", 1, 4),
    ("pixelsnail", "depth", 3, 3),
    ("pixelsnail", "multidimensional", 1, 2),
    ("pixelsnail_softmax", "raster", 3, 3),
    ("imagebart", "raster", 3, 3),
    ("imagebart", "depth", 3, 3),
    ("imagebart", "multidimensional", 1, 2),
    ("imagebart", "low_before_high", 1, 2),
    ("imagebart_aligned", "multidimensional", 1, 2),
    ("imagebart_mixture", "depth", 3, 3),
)

# Between the resolutions its streams carry no pixel that lies beside the next one in a block of 2x2.
BLIND = {("pixelcnn_pp_no_short_cuts", contract.check_no_blind_spot)}


@cache
def problem_of(family: str, chain: str, channels: int, side: int) -> Problem:
    stages = CHAINS[chain]
    full = side * max(part.scale_factor for part in stages.values())
    return build_problem(stages, (full, full, channels), 2, SECTIONS[family])


# What the fast tests check: of each network the chain that has every kind of context.
FAST = {
    ("spn_head", "multidimensional"),
    ("pixelcnn_pp", "multidimensional"),
    ("pixelcnn_pp_no_short_cuts", "raster"),
    ("pixelsnail", "multidimensional"),
    ("imagebart", "multidimensional"),
}
# Pixel by pixel, and so dear.
PIXELWISE = (contract.check_walk, *SAMPLE_CHECKS)
SAMPLED = FAST - {("spn_head", "multidimensional"), ("pixelcnn_pp", "multidimensional")}


@pytest.mark.parametrize(
    ("case", "check"),
    [
        pytest.param(
            case, check, marks=[pytest.mark.slow] * (case[:2] not in (SAMPLED if check in PIXELWISE else FAST))
        )
        for case in CASES
        for check in (*MODEL_CHECKS, *SAMPLE_CHECKS)
    ],
    ids=lambda value: value.__name__ if callable(value) else "-".join(map(str, value)),
)
def test_the_contract(case: tuple[str, str, int, int], check: Check) -> None:
    if (case[0], check) in BLIND:
        with pytest.raises(AssertionError):
            check(problem_of(*case))
    else:
        check(problem_of(*case))


@cache
def scales_of(family: str, shape: tuple[int, int, int], bits: int, *kept: float) -> Problem:
    """Build the scales of a diffusion over two bits, and if there are more a stage of low bits after them."""
    chain, noises = scales(2, (1.0, *kept, 0.0))
    chain |= {"low": Part(1, "all", (2, bits))} if bits > 2 else {}
    section = SCALES[family]
    if shape[0] < 4 and isinstance(section, PixelCnnPpSection):
        section = changed(section, downsampling=False)
    return build_problem(chain, shape, bits, section, noises=noises)


def scale_cases(*checks: Check) -> list[Any]:
    """Pair every family with every check; fast are those of a model, and all of the form that is for scales alone."""
    return [
        pytest.param(family, check, marks=[] if is_fast else [pytest.mark.slow], id=f"{family}-{check.__name__}")
        for family in SCALES
        for check in checks
        for is_fast in [check in MODEL_CHECKS or family == "imagebart_residual"]
    ]


@pytest.mark.parametrize(("family", "check"), scale_cases(*MODEL_CHECKS, *SAMPLE_CHECKS))
def test_scales_of_codes_keep_the_contract(family: str, check: Check) -> None:
    check(scales_of(family, (2, 2, 1), 2, 0.6))


@pytest.mark.slow
@pytest.mark.parametrize("check", [*MODEL_CHECKS, *SAMPLE_CHECKS], ids=lambda check: check.__name__)
@pytest.mark.parametrize("family", SCALES)
def test_scales_of_pixels_and_low_bits_after_them_keep_the_contract(family: str, check: Check) -> None:
    check(scales_of(family, (2, 3, 3), 3, 0.8, 0.4))


@pytest.mark.parametrize(("family", "check"), scale_cases(*MASS_CHECKS, contract.check_frequencies))
def test_scale_after_scale_is_a_likelihood_summed_over_all_draws(family: str, check: Check) -> None:
    check(scales_of(family, (1, 2, 1), 2, 0.8, 0.4))


EVERY_LAW = SECTIONS | {
    "spn": SMALL,
    "spn_dequantised": changed(SMALL, law="dequantised", mixtures=2),
    "pixelcnn_pp_dequantised": changed(PLUS_PLUS, law="dequantised"),
}

# Stages that see high bits, or generate bits before more significant ones; and so for some slices only.
ORDERS = (
    pytest.param("depth", marks=pytest.mark.slow),
    pytest.param("multidimensional", marks=pytest.mark.slow),
    pytest.param("low_before_high", marks=pytest.mark.slow),
    "low_before_rest",
)


def enumerable(family: str) -> FamilySection:
    """Return a family that takes single pixels."""
    section = EVERY_LAW[family]
    return changed(section, downsampling=False) if isinstance(section, PixelCnnPpSection) else section


@pytest.mark.parametrize("check", MASS_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "family",
    [
        *(pytest.param(f"spn_{kind}", marks=pytest.mark.slow) for kind in ("mixture", "placed", "head_softmax")),
        "spn_head",
        pytest.param("gated_pixelcnn", marks=pytest.mark.slow),
        "gated_pixelcnn_head",
        "pixelcnn_pp",
        *(pytest.param(f"pixelcnn_pp_{law}", marks=pytest.mark.slow) for law in ("placed", "softmax")),
        "pixelsnail",
        "imagebart",
        pytest.param("imagebart_mixture", marks=pytest.mark.slow),
    ],
)
def test_probabilities_of_all_colours_sum_to_one(check: Check, family: str) -> None:
    check(build_problem(CHAINS["depth"], (1, 2, 3), 2, enumerable(family)))


@pytest.mark.parametrize("check", MASS_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("chain", ORDERS)
@pytest.mark.parametrize("family", EVERY_LAW)
def test_probabilities_of_everything_sum_to_one(check: Check, chain: str, family: str) -> None:
    check(build_problem(CHAINS[chain], (2, 2, 1), 2, enumerable(family)))


def test_sampling_draws_from_the_exact_law() -> None:
    section = changed(PLUS_PLUS, downsampling=False)
    contract.check_frequencies(build_problem(CHAINS["depth"], (2, 2, 1), 2, section))


@pytest.mark.parametrize("high_levels", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize("family", SECTIONS)
def test_every_weight_learns_and_recomputing_changes_no_loss(family: str, high_levels: int) -> None:
    torch.manual_seed(1)
    shape = StageShape(8, 8, 3, 16, 2, 64, num_positions=4, high_levels=high_levels, num_classes=5)
    model = build_model(SECTIONS[family], shape).train()
    context = random_context(shape, 4, torch.Generator().manual_seed(1))
    levels = torch.randint(16, (4, 8, 8, 3))
    model.initialise(levels, context)

    def loss() -> torch.Tensor:
        return -model(levels, context).log_prob(levels)

    kept = loss()
    kept.mean().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    recompute_layers(model)
    assert torch.equal(loss(), kept)
    with torch.autocast("cpu", torch.bfloat16):
        halved = loss()
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved.mean(), kept.mean(), atol=0.1, rtol=0)


COMPILED = """
import sys
import torch
from families import SECTIONS
from spn.evaluation.random_problem import random_context
from spn.models import StageShape, build_model

shape = StageShape(4, 4, 3, 4, 0, 4, num_positions=1)
model = build_model(SECTIONS[sys.argv[1]], shape).eval()
context, levels = random_context(shape, 2, torch.Generator().manual_seed(1)), torch.randint(4, (2, 4, 4, 3))
loss = lambda levels: -model(levels, context).log_prob(levels).mean()
torch.testing.assert_close(torch.compile(loss, backend="eager", fullgraph=True)(levels), loss(levels))
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["spn_mixture", "gated_pixelcnn", "pixelcnn_pp", "pixelsnail", "imagebart"])
def test_a_family_compiles_to_one_graph(family: str) -> None:
    """Breaks between graphs would cost what `--compile` gains; in a process where types are not checked."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, map(str, sys.path)))}
    subprocess.run([sys.executable, "-c", COMPILED, family], env=environment, check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are captured on CUDA alone")
@pytest.mark.parametrize("family", ["gated_pixelcnn", "pixelcnn_pp", "pixelsnail", "imagebart"])
def test_a_captured_walk_gives_the_same_sample(family: str) -> None:
    problem = problem_of(family, "depth", 3, 4)
    expected = contract.sample(problem, num_images=5, batch_size=5, sampler="plain")
    on_gpu = replace(problem, models=tuple(deepcopy(model).cuda() for model in problem.models))
    assert torch.equal(contract.sample(on_gpu, num_images=5, batch_size=3), expected)


@pytest.mark.parametrize("family", SECTIONS)
def test_every_family_here_samples_step_by_step(family: str) -> None:
    """Whole passes in place of its step form would give the same samples, two orders more slowly."""
    model = build_model(SECTIONS[family], StageShape(4, 4, 3, 4, 0, 4, num_positions=1)).eval()
    assert not isinstance(build_steps(model, 2), WholePasses)
