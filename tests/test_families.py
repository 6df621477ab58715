"""The contract for every other model family, and for every law: in stages of every kind, whole and step by step."""

from functools import cache

import contract
import pytest
from contract import MASS_CHECKS, MODEL_CHECKS, SAMPLE_CHECKS, SMALL, Check, Problem, build_problem, chains

from spn.config import FamilySection, GatedPixelCnnSection

CHAINS = chains(1, 2)

SECTIONS: dict[str, FamilySection] = {
    "spn_mixture": SMALL.model_copy(update={"law": "mixture", "mixtures": 2}),
    "gated_pixelcnn": GatedPixelCnnSection(family="gated_pixelcnn", width=24, layers=2, embedder_layers=1),
    "gated_pixelcnn_mixture": GatedPixelCnnSection(
        family="gated_pixelcnn", width=24, layers=3, law="mixture", mixtures=2, embedder_layers=1
    ),
}

# (chain, channels): a stage without context, slices beside slices, and low bits beside all high bits.
CASES = (("raster", 3), ("subscale", 1), ("multidimensional", 1), ("depth", 3), ("low_before_high", 1))


@cache
def problem_of(family: str, chain: str, channels: int, side: int) -> Problem:
    stages = CHAINS[chain]
    full = side * max(part.scale_factor for part in stages.values())
    return build_problem(stages, (full, full, channels), 2, SECTIONS[family])


@pytest.mark.parametrize("check", [*MODEL_CHECKS, *SAMPLE_CHECKS], ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
@pytest.mark.parametrize("family", SECTIONS)
def test_the_contract(check: Check, case: tuple[str, int], family: str) -> None:
    check(problem_of(family, *case, side=3 if check in MODEL_CHECKS else 2))


@pytest.mark.parametrize("check", MASS_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("shape", [(2, 2, 1), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("family", SECTIONS)
def test_probabilities_of_everything_sum_to_one(check: Check, shape: tuple[int, int, int], family: str) -> None:
    check(build_problem(CHAINS["depth"], shape, 2, SECTIONS[family]))


@pytest.mark.parametrize("family", SECTIONS)
def test_sampling_draws_from_the_exact_law(family: str) -> None:
    contract.check_frequencies(build_problem(CHAINS["depth"], (2, 2, 1), 2, SECTIONS[family]))
