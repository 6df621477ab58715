"""Plants bugs, one at a time, and states which checks of the contract catch each.

No check catches all of them, and some bugs are caught by one check alone: that is why there are so many.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import planted
import pytest
from contract import (
    MASS_CHECKS,
    MODEL_CHECKS,
    SAMPLE_CHECKS,
    SMALL,
    STAGE_CHECKS,
    Check,
    Part,
    Problem,
    build_problem,
    chains,
    check_frequencies,
    ordered_chains,
    resolve,
)
from experiment import tiny_params, write_params
from families import PLUS_PLUS
from planted import Plant

from spn.cli import main
from spn.config import InputError
from spn.evaluation.chain_check import check_chain
from spn.evaluation.check import check_stage

pytestmark = pytest.mark.slow

CHAINS = chains(1, 2) | ordered_chains(1, 2)
MIXTURE = SMALL.model_copy(update={"law": "mixture", "mixtures": 2})


def stages() -> list[Problem]:
    names = {"multidimensional": (4, 4, 3), "low_before_rest": (4, 4, 1), "orders_mixed": (4, 4, 1)}
    return [resolve(CHAINS[name], shape, 2) for name, shape in names.items()]


def models() -> list[Problem]:
    return [build_problem(CHAINS["size"], (4, 4, 3), 2)]


def samples() -> list[Problem]:
    names = {"multidimensional": (2, 4, 1), "raster": (1, 2, 3), "orders_mixed": (2, 4, 1)}
    return [build_problem(CHAINS[name], shape, 2) for name, shape in names.items()]


def tiny() -> list[Problem]:
    return [
        build_problem(CHAINS["multidimensional"], (2, 2, 1), 2),
        build_problem(CHAINS["depth"], (1, 3, 1), 2),
        build_problem(CHAINS["raster"], (1, 1, 3), 2),
        build_problem(CHAINS["low_before_rest"], (2, 2, 1), 2, MIXTURE),
        build_problem(CHAINS["orders_mixed"], (2, 2, 1), 2),
    ]


def binary() -> list[Problem]:
    return [build_problem(chains(1, 1)["subscale"], (2, 2, 1), 1)]


def name_of(check: Check) -> str:
    return check.__name__.removeprefix("check_")


STANDS: tuple[tuple[Callable[[], list[Problem]], Sequence[Check]], ...] = (
    (stages, STAGE_CHECKS),
    (models, MODEL_CHECKS),
    (samples, SAMPLE_CHECKS),
    (tiny, MASS_CHECKS),
    (binary, [check_frequencies]),
)
"""On which problems each check is applied."""


NAMES = {name_of(check) for _, checks in STANDS for check in checks}


def caught_by(names: set[str] = NAMES) -> set[str]:
    """Apply the checks of these names, and name those that fail."""
    failed = set()
    for build, checks in STANDS:
        chosen = [check for check in checks if name_of(check) in names]
        problems = build() if chosen else []
        failed |= {name_of(check) for check in chosen if any(fails(check, problem) for problem in problems)}
    return failed


def fails(check: Check, problem: Problem) -> bool:
    try:
        check(problem)
    except (AssertionError, RuntimeError):  # RuntimeError: of a sampler that reaches no sample
        return True
    return False


SEES_ITSELF = {"causality", "target_mass", "chain_mass", "walk", "cached_walk", "samples_replay"}
STEPS_ASIDE = {"cached_walk", "samples_replay"}
SHOWS_TOO_MUCH = {"contexts", "later_bits_are_hidden", "hidden_bits_leak", "chain_mass", "samples_replay"}

CAUGHT_BY: dict[Plant, set[str]] = {
    planted.mask_b_for_mask_a: SEES_ITSELF | {"samplers_agree"},
    # Passes without an end: they reach no sample.
    planted.vertical_stack_not_shifted_down: SEES_ITSELF | {"samplers_agree"},
    planted.transformer_not_shifted: SEES_ITSELF,
    planted.vertical_stack_sees_the_transformer: SEES_ITSELF,
    planted.blue_seen_by_green: SEES_ITSELF | {"samplers_agree"},
    planted.gate_across_channels: SEES_ITSELF | {"samplers_agree"},
    # Normalised: it is a likelihood, but of another order than that of the walk.
    planted.channels_in_another_order: {"causality", "no_blind_spot", "walk", "samplers_agree"} | STEPS_ASIDE,
    # Sound likelihoods, but worse ones.
    planted.nothing_above_is_seen: {"no_blind_spot"} | STEPS_ASIDE,
    planted.context_is_ignored: {"context_is_used"},
    planted.padding_is_intensity_zero: {"context_is_used"},
    # Sound laws, and sound samples of other laws.
    planted.slice_before_is_remembered: STEPS_ASIDE,
    planted.left_of_the_first_column_is_the_row_above: STEPS_ASIDE,
    planted.rows_overlap_in_the_cache: {"cached_walk"},
    planted.pixel_is_not_remembered: STEPS_ASIDE,
    planted.float32_for_float64: {"law", "target_mass", "chain_mass", "walk", "cached_walk"},
    planted.softmax_over_the_wrong_axis: {"law", "target_mass", "chain_mass", "walk", "cached_walk", "frequencies"},
    planted.softmax_forgotten: {"law", "target_mass", "chain_mass", "frequencies"},
    planted.stages_overlap: {"every_bit_once", "contexts", "chain_mass", "samples_replay", "frequencies"},
    planted.stage_left_out: {"every_bit_once", "contexts", "later_bits_are_hidden", "round_trip", "chain_mass"},
    # `hidden_bits_leak` believes the plan.
    planted.plan_knows_what_comes_later: SHOWS_TOO_MUCH - {"hidden_bits_leak"},
    planted.later_slices_in_the_causal_window: SHOWS_TOO_MUCH,
    planted.later_slices_in_the_window_of_an_order: SHOWS_TOO_MUCH,
    # Normalised: it is a likelihood, but of raster order.
    planted.slices_before_in_raster_order: SHOWS_TOO_MUCH - {"chain_mass"},
    planted.low_bits_shown_to_the_high_bit_stage: SHOWS_TOO_MUCH,
    planted.high_bits_shown_that_come_later: SHOWS_TOO_MUCH - {"samples_replay"},
    planted.window_shifted_onto_the_target: SHOWS_TOO_MUCH,
    planted.window_of_the_transposed_position: SHOWS_TOO_MUCH,
    # Causal and normalised: only the formula of the window knows better.
    planted.window_shifted_away_from_the_target: {"contexts"},
    planted.sampled_backwards: {"samples_replay", "samplers_agree"},
    planted.uniforms_keyed_by_place_in_the_batch: {"batches"},
    planted.uniforms_the_same_for_all_slices: {"frequencies"},
}


def test_every_check_catches_something() -> None:
    assert set().union(*CAUGHT_BY.values()) == NAMES


def test_sound_code_passes_every_check() -> None:
    assert caught_by() == set()


@pytest.mark.parametrize("plant", CAUGHT_BY, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_caught(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert caught_by(CAUGHT_BY[plant]) == CAUGHT_BY[plant]


@pytest.mark.parametrize("plant", CAUGHT_BY, ids=lambda plant: plant.__name__)
def test_no_other_check_catches_a_planted_bug(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert caught_by(NAMES - CAUGHT_BY[plant]) == set()


def checked() -> list[str]:
    """Run `spn check` on every stage of small chains, with mixtures in the second, and on these chains."""
    lines = []
    for (name, section), problem in zip(
        (("multidimensional", SMALL), ("low_before_rest", MIXTURE), ("orders_mixed", SMALL)), stages(), strict=True
    ):
        lines += [check_stage(plan, problem.shape, section, seed=1) for plan in problem.plans]
        sections = dict.fromkeys(CHAINS[name], section)
        lines.append(check_chain(name, problem.plans, problem.shape[2], sections, seed=1))
    return lines


def test_spn_check_says_in_one_line_that_a_stage_or_a_chain_is_sound() -> None:
    first_high, rest_high, _, chain, *_ = lines = checked()
    assert first_high.startswith("first_high: causal")
    assert "0 blind spots" in first_high
    assert "; without context; " in first_high
    assert "; context reaches 1 of 1 pixels, no blind spot; " in rest_high
    assert chain.startswith("chain multidimensional: normalised (all 256 images of 2x2x1 with 2 bits sum to 1 ")
    assert all(line.splitlines() == [line] for line in lines)


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (planted.mask_b_for_mask_a, "stages.first_high: a law depends on what comes after it"),
        (planted.vertical_stack_sees_the_transformer, "stages.rest_high: a law depends on what comes after it"),
        (planted.channels_in_another_order, "stages.first_high: a law depends on what comes after it"),
        (planted.later_slices_in_the_causal_window, "stages.rest_high: the context of slices"),
        (planted.low_bits_shown_to_the_high_bit_stage, "stages.rest_high: the context of slices"),
        (planted.high_bits_shown_that_come_later, "stages.low: the context of slices"),
        (planted.softmax_forgotten, "stages.first_high: expected probabilities that sum to 1, got"),
    ],
)
def test_spn_check_names_the_stage_that_is_not(plant: Plant, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(InputError) as caught:
        checked()
    assert str(caught.value).startswith(message)
    assert str(caught.value).splitlines() == [str(caught.value)]


def test_the_mass_of_a_chain_shows_what_no_stage_shows_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    planted.high_bits_shown_that_come_later(monkeypatch)
    problem = stages()[1]
    with pytest.raises(InputError, match=r"chains.c: expected the probabilities of all images to sum to 1, got"):
        check_chain("c", problem.plans, 1, dict.fromkeys(CHAINS["low_before_rest"], MIXTURE), seed=1)


def test_spn_check_sums_the_law_that_a_bound_is_for() -> None:
    section = PLUS_PLUS.model_copy(update={"law": "dequantised", "downsampling": False})
    problem = resolve(CHAINS["depth"], (4, 4, 1), 2)
    assert "sum to 1" in check_stage(problem.plans[1], problem.shape, section, seed=1)
    assert "sum to 1" in check_chain("depth", problem.plans, 1, dict.fromkeys(CHAINS["depth"], section), seed=1)


def test_spn_check_says_what_of_a_chain_it_shrank_or_could_not_enumerate() -> None:
    problem = resolve(CHAINS["raster"], (8, 8, 3), 2)
    line = check_chain("c", problem.plans, 3, {"raster": PLUS_PLUS}, seed=1)
    assert line.startswith("chain c: normalised (all 4,096 images of 2x2x3 with 1 bit, without down-sampling, sum to 1")
    parts = {f"b{bit}": Part(2, "all", (bit, bit + 1)) for bit in range(8)}
    problem = resolve(parts, (8, 8, 1), 8)
    line = check_chain("c", problem.plans, 1, dict.fromkeys(parts, SMALL), seed=1)
    assert line == "chain c: not enumerated, because it can make at least 2^32 images; its stages are checked"


@pytest.mark.parametrize(("factors", "shape"), [((8, 8), "2x2x1"), ((4, 1), "2x2x1"), ((1, 6), "2x2x1")])
def test_large_scale_factors_are_shrunk_to_two(factors: tuple[int, int], shape: str) -> None:
    parts = {"high": Part(factors[0], "all", (0, 3)), "low": Part(factors[1], "all", (3, 8))}
    problem = resolve(parts, (24, 24, 1), 8)
    line = check_chain("c", problem.plans, 1, dict.fromkeys(parts, SMALL), seed=1)
    assert line.startswith(f"chain c: normalised (all 256 images of {shape} with 2 bits sum to 1")


def test_the_command_checks_stages_and_chains_or_the_stages_that_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_params(tmp_path, tiny_params()))
    assert main(["check", "--params", path]) == 0
    starts = ["raster: causal", "high: causal", "low: causal", "chain raster: norm", "chain depth: norm"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 5
    assert main(["check", "--params", path, "low"]) == 0
    assert [line.startswith("low: causal") for line in capsys.readouterr().out.splitlines()] == [True]
