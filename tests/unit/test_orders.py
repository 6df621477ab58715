"""Orders of slices: what they are, what stages are made of them, and chains of one bit a stage."""

from pathlib import Path
from typing import Any

import contract
import numpy as np
import pytest
import torch
from contract import SMALL, Part, build_problem, resolve
from model_files import rgb_params, write_model
from params_file import Mistakes, changed, error_of, load
from perturbed import jobs_of

import spn
from spn.api.card import model_card
from spn.config import Params, StagePlan
from spn.config.tiling import Order, SliceSelection, ordered_slices, target_slices
from spn.evaluation.chain_check import check_chain
from spn.stages import build_stage
from spn.stages.ordered import OrderedStage

COLUMNS = ((0, 0), (1, 0), (0, 1), (1, 1))


def test_the_diagonal_of_two_by_two_slices() -> None:
    assert ordered_slices("diagonal", 2) == ((0, 0), (1, 1), (0, 1), (1, 0))
    assert ordered_slices("raster", 2) == ((0, 0), (0, 1), (1, 0), (1, 1))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 16])
def test_the_diagonal_takes_one_wrapped_diagonal_after_another_from_its_top(size: int) -> None:
    walked = [(step, (step + diagonal) % size) for diagonal in range(size) for step in range(size)]
    assert list(ordered_slices("diagonal", size)) == walked


@pytest.mark.parametrize("order", ["raster", "diagonal", COLUMNS])
def test_the_first_slice_and_the_rest_are_all(order: Order) -> None:
    first, rest, every = (target_slices(which, 2, order) for which in ("first", "rest", "all"))
    assert first == ((0, 0),)
    assert (*first, *rest) == every
    assert set(every) == set(COLUMNS)


@pytest.mark.parametrize(
    ("slices", "order", "kind"),
    [
        ("all", "raster", "cells"),
        ("all", "diagonal", "ordered"),
        ("rest", "diagonal", "ordered"),
        ("first", "diagonal", "cells"),
        ("all", COLUMNS, "ordered"),
        ("all", tuple(sorted(COLUMNS)), "cells"),
    ],
)
def test_only_targets_out_of_raster_order_are_another_kind(slices: SliceSelection, order: Order, kind: str) -> None:
    parts = {"stage": Part(2, slices, (0, 2), order)}
    if slices != "all":
        parts["other"] = Part(2, "rest" if slices == "first" else "first", (0, 2))
    plan = resolve(parts, (4, 4, 1), 2).plans[0]
    assert plan.kind == kind
    assert isinstance(build_stage(plan, (4, 4, 1)), OrderedStage) == (kind == "ordered")


def test_a_whole_image_has_no_order_of_slices() -> None:
    (diagonal,) = resolve({"stage": Part(1, "all", (0, 2), "diagonal")}, (4, 4, 1), 2).plans
    (raster,) = resolve({"stage": Part(1, "all", (0, 2))}, (4, 4, 1), 2).plans
    assert diagonal == raster


def test_the_window_of_the_diagonal_has_the_offsets_at_which_a_slice_comes_before() -> None:
    """By hand: (1,1) sees up-left; (0,1) sees left and below; (1,0) sees above, right and up-right."""
    (plan,) = resolve({"stage": Part(2, "all", (0, 2), "diagonal")}, (4, 4, 1), 2).plans
    stage = build_stage(plan, (4, 4, 1))
    slices = torch.tensor([[1, 2], [3, 0]], dtype=torch.uint8)[None, :, :, None, None, None].expand(-1, -1, -1, 2, 2, 1)

    def seen(m: int, n: int) -> list[int | None]:
        context = stage.context(slices, stage.positions((m, n), 1))
        cells = context.cells[0, :, 0, 0, 0].tolist()
        return [level if is_there else None for level, is_there in zip(cells, context.present[0].tolist(), strict=True)]

    # Up-left, above, up-right, left, right, below.
    assert stage.shape.num_cells == 6
    assert seen(0, 0) == [None] * 6
    assert seen(1, 1) == [1, None, None, None, None, None]
    assert seen(0, 1) == [None, None, None, 1, None, 0]
    assert seen(1, 0) == [None, 1, 2, None, 0, None]


MISTAKES: Mistakes = {
    "no such order": (
        {"stages.low.order": "spiral"},
        "stages.low.order: expected raster, diagonal or a list of slices",
    ),
    "no slices": ({"stages.low.order": [[0, 0, 0]]}, "stages.low.order: expected raster, diagonal or a list of slices"),
    "a slice left out": (
        {"stages.low.order": [[0, 0], [1, 1]]},
        "stages.low.order: expected each of the 4 slices of scale_factor 2 once, got [[0, 0], [1, 1]]",
    ),
    "a slice twice": (
        {"stages.low.order": [[0, 0], [1, 1], [0, 1], [0, 1]]},
        "stages.low.order: expected each of the 4 slices of scale_factor 2 once, got",
    ),
    "slices of another grid": (
        {"stages.raster.order": [[0, 0], [1, 1], [0, 1], [1, 0]]},
        "stages.raster.order: expected each of the 1 slices of scale_factor 1 once, got",
    ),
    "another slice first": (
        {"stages.low.order": [[1, 1], [0, 0], [0, 1], [1, 0]]},
        "stages.low.order: expected [0, 0] first, which slices: first and upscaling rely on, got [[1, 1], ",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line_with_its_key(name: str, tmp_path: Path) -> None:
    changes, start = MISTAKES[name]
    message = error_of(tmp_path, changed(changes))
    assert message.startswith(start)
    assert message.count("stages.") == 1


def test_a_misspelt_order_is_asked_about(tmp_path: Path) -> None:
    message = error_of(tmp_path, changed({"stages.low.order": "diagnal"}))
    assert message.endswith("got 'diagnal'; did you mean diagonal? (line 1)")


def other_jobs(before: Params, after: Params) -> set[str]:
    old, new = jobs_of(before), jobs_of(after)
    return {job for job in old | new if old.get(job) != new.get(job)}


def test_raster_order_written_out_makes_nothing_again_and_another_one_its_stage(tmp_path: Path) -> None:
    listed, diagonal = [[0, 0], [0, 1], [1, 0], [1, 1]], "diagonal"
    before = load(tmp_path, changed({}))
    same, other = (load(tmp_path, changed({"stages.subscale.order": order})) for order in (listed, diagonal))
    assert other_jobs(before, same) == set()
    jobs = {
        f"{verb}/subscale" for verb in ("train", "evaluate", "summarise", "export", "record", "complete_chain", "codec")
    }
    assert other_jobs(before, other) == jobs | {"sample_stage/subscale/subscale", "report"}


def test_parameters_without_the_key_are_written_without_it(tmp_path: Path) -> None:
    """Model files are named by what their parameters are, and earlier versions know no such key."""
    written: Any = load(tmp_path, changed({"stages.low.order": "diagonal"})).model_dump(mode="json")["stages"]
    assert written["low"]["order"] == "diagonal"
    assert "order" not in written["subscale"]


def one_bit_each(num_bits: int, scale_factor: int, order: Order) -> dict[str, Part]:
    return {f"bit{bit}": Part(scale_factor, "all", (bit, bit + 1), order) for bit in range(num_bits)}


@pytest.mark.parametrize(("scale_factor", "order"), [(1, "raster"), (2, "raster"), (2, "diagonal")])
def test_a_chain_of_eight_times_one_bit(scale_factor: int, order: Order) -> None:
    problem = build_problem(one_bit_each(8, scale_factor, order), (2, 4, 1), 8, SMALL)
    plans: tuple[StagePlan, ...] = problem.plans
    assert [(plan.num_levels, plan.high_levels) for plan in plans] == [(2, 1 << bit) for bit in range(8)]
    assert [plan.known[0][0] for plan in plans] == [(0xFF00 >> bit) & 0xFF for bit in range(8)]
    for check in (*contract.STAGE_CHECKS, contract.check_walk, contract.check_cached_walk):
        check(problem)
    images = contract.sample(problem, num_images=3, batch_size=2)
    assert images.shape == (3, 2, 4, 1)
    assert len(images.unique()) > 8


@pytest.mark.parametrize("scale_factor", [1, 2])
def test_a_file_may_state_a_chain_of_eight_times_one_bit(scale_factor: int, tmp_path: Path) -> None:
    raw = rgb_params()
    part = raw["stages"]["high"] | {"scale_factor": scale_factor, "order": "diagonal"}
    stages = {f"bit{bit}": part | {"bits": [bit, bit + 1]} for bit in range(8)}
    raw |= {"data": raw["data"] | {"bits": 8}, "stages": stages, "chains": {"bits": {"stages": list(stages)}}}
    model = spn.load(write_model(tmp_path, raw, "bits"))
    images = model.sample(3, seed=1)
    assert images.max() > 200
    nats = model.nats(images, per="stage")
    assert list(nats) == list(stages)
    assert np.array_equal(model.decode(model.encode(images).content), images)
    assert ("slices in order (0,0) (1,1) (0,1) (1,0)" in model_card(model)) == (scale_factor == 2)


@pytest.mark.parametrize(
    ("scale_factor", "order"),
    [(4, "diagonal"), (2, COLUMNS), (3, "diagonal")],
    ids=["halved", "as it is", "from three"],
)
def test_a_chain_that_is_shrunk_keeps_its_order(
    scale_factor: int, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"first": Part(scale_factor, "first", (0, 1), order), "rest": Part(scale_factor, "rest", (0, 1), order)}
    problem = resolve(parts, (4 * scale_factor, 4 * scale_factor, 1), 1)
    built: list[StagePlan] = []

    def build(plan: StagePlan, shape: tuple[int, int, int]) -> Any:
        built.append(plan)
        return build_stage(plan, shape)

    monkeypatch.setattr("spn.evaluation.chain_check.build_stage", build)
    line = check_chain("c", problem.plans, 1, dict.fromkeys(parts, SMALL), seed=1)
    assert line.startswith("chain c: normalised (all 256 images of 2x4x1 with 1 bit sum to 1")
    expected = ((1, 0), (0, 1), (1, 1)) if order == COLUMNS else ((1, 1), (0, 1), (1, 0))
    assert built[-1].targets == expected
