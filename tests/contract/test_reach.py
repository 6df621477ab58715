"""How far context reaches: what is planned, what is measured, and what a dilation makes of it."""

from pathlib import Path

import pytest
import torch
from contract import SMALL
from experiment import tiny_params, write_params
from families import BART, GATED, PLUS_PLUS, SNAIL
from made_up_machine import PLENTY, SPEEDS, machine

from spn.config import FamilySection, load_params
from spn.evaluation.dependence import sight
from spn.evaluation.random_problem import random_problem
from spn.layers import context_reach, embedder_dilations
from spn.models import StageShape
from spn.planning import forecast, plan_table

FAMILIES = {"spn": SMALL, "gated_pixelcnn": GATED, "pixelcnn_pp": PLUS_PLUS, "pixelsnail": SNAIL}


def beside(height: int, width: int, num_cells: int = 1) -> StageShape:
    """Describe a stage of grey slices beside cells of context."""
    return StageShape(height, width, 1, 4, num_cells, context_levels=8, num_positions=1)


@pytest.mark.parametrize(
    ("layers", "dilation", "dilations", "reach"),
    [
        (0, 1, (1,), 1),
        (1, 1, (1, 1, 1), 3),
        (6, 1, (1,) * 13, 13),
        (0, 2, (1,), 1),
        (1, 2, (1, 2, 4), 7),
        (3, 2, (1, 2, 4, 8, 16, 32, 64), 127),
        (4, 2, (1, 2, 4, 8, 16, 32, 64, 1, 2), 130),
    ],
)
def test_dilations_begin_again_where_they_have_reached_far(
    layers: int, dilation: int, dilations: tuple[int, ...], reach: int
) -> None:
    section = SMALL.model_copy(update={"embedder_layers": layers, "embedder_dilation": dilation})
    assert embedder_dilations(section) == dilations
    assert context_reach(section) == reach


@pytest.mark.parametrize(("layers", "dilation", "reach"), [(0, 1, 1), (1, 1, 3), (2, 1, 5), (1, 2, 7), (2, 2, 31)])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_measured_is_what_is_configured(family: str, layers: int, dilation: int, reach: int) -> None:
    section = FAMILIES[family].model_copy(update={"embedder_layers": layers, "embedder_dilation": dilation})
    # The sides of the second are multiples of four, as down-sampling needs.
    shape = (4, 12) if family == "pixelcnn_pp" else (2, 9)
    seen = sight(*random_problem(section, beside(*shape), 2, torch.Generator().manual_seed(1)))
    assert seen is not None
    assert context_reach(section) == reach
    assert seen.reach == min(reach, shape[1] - 1)


def test_attention_reaches_over_the_slice() -> None:
    seen = sight(*random_problem(BART, beside(2, 9), 2, torch.Generator().manual_seed(1)))
    assert seen is not None
    assert (seen.reach, seen.blind) == (8, [])
    assert context_reach(BART) >= seen.reach


def measured(section: FamilySection, height: int, width: int) -> list[tuple[int, int]]:
    """Measure which pairs of a law and a pixel of context are blind."""
    seen = sight(*random_problem(section, beside(height, width), 2, torch.Generator().manual_seed(1)))
    assert seen is not None
    return seen.blind


def test_blind_spots_are_those_that_the_parts_of_the_network_leave() -> None:
    # Without attention and with one layer, the law of a pixel of a single row sees its own features, and by the
    # vertical stack, of a kernel of three, those of the pixel beside it: as far as the embedder reaches from there.
    section = SMALL.model_copy(update={"transformer_layers": 0, "pixelcnn_layers": 1, "embedder_layers": 0})
    expected = [(law, pixel) for law in range(8) for pixel in range(8) if pixel > law + 1]
    blind = measured(section, 1, 8)
    assert {pair for pair in blind if pair[1] > pair[0]} == set(expected)


def test_a_context_that_reaches_over_the_slice_leaves_no_blind_spot() -> None:
    # The network of the default experiment's depth_low: an independent count found 2 * 664 of its high bits unseen.
    short, far = (SMALL.model_copy(update={"embedder_dilation": dilation, "pixelcnn_layers": 3}) for dilation in (1, 2))
    assert len(measured(short, 8, 8)) == 664
    assert measured(far, 8, 8) == []


@pytest.mark.parametrize("section", [*FAMILIES.values(), BART], ids=lambda section: section.family)
def test_a_narrow_network_sees_what_a_wide_one_does(section: FamilySection) -> None:
    narrow = section.narrowed(channels=1)
    assert narrow != section
    assert narrow.problem(4, 8, 1) is None
    assert measured(narrow, 4, 8) == measured(section, 4, 8)


def test_a_stage_without_context_has_no_reach() -> None:
    problem = random_problem(SMALL, beside(3, 3, num_cells=0), 2, torch.Generator().manual_seed(1))
    assert sight(*problem) is None


@pytest.mark.slow
def test_spn_plan_says_the_reach(tmp_path: Path) -> None:
    raw = tiny_params()
    raw["stages"]["high"] |= {"scale_factor": 1}
    raw["stages"]["low"] |= {"scale_factor": 1}
    params = load_params(write_params(tmp_path, raw))
    stages = forecast(params, SPEEDS, {"test": 10}, PLENTY)
    assert [stage.reach for stage in stages] == [None, None, (3, 7)]
    # A reach of 31 is cut off by the slice.
    raw["stages"]["low"]["model"] |= {"embedder_layers": 2, "embedder_dilation": 2}
    params = load_params(write_params(tmp_path, raw))
    stages = forecast(params, SPEEDS, {"test": 10}, PLENTY)
    table = plan_table(params, stages, {"test": 10}, machine())
    (low,) = (line for line in table.split("\n\n")[0].splitlines() if line.startswith("low "))
    assert " 7 of 7 " in low
    (raster,) = (line for line in table.split("\n\n")[0].splitlines() if line.startswith("raster "))
    assert raster.split()[5] == "-"
