"""`spn check` by itself: what it says, which problems it draws and how large, and that a fault is told alike again."""

import re
from collections.abc import Callable
from typing import Any

import planted
import pytest
import torch
from contract import SMALL, Part, Problem, chains, resolve
from families import PLUS_PLUS
from torch import Tensor

from spn.config import FamilySection, InputError
from spn.evaluation import chain_check, check
from spn.evaluation.chain_check import check_chain
from spn.evaluation.check import TOLERANCE, check_stage, takes
from spn.likelihood import Chunked, DiscretisedMixture, Law
from spn.models import Context, StageShape
from spn.models.spn import SubscalePixelNetwork

CHAINS = chains(1, 2)
SUM = r" sum to 1 ([+-]\d\.\de[+-]\d\d)\)"


def stage_line(
    chain: str, stage: str, shape: tuple[int, int, int], section: FamilySection = SMALL, seed: int = 1
) -> str:
    """Check one stage of a chain of two bits."""
    problem = resolve(CHAINS[chain], shape, 2)
    (plan,) = (plan for plan in problem.plans if plan.name == stage)
    return check_stage(plan, shape, section, seed)


def chain_line(problem: Problem, section: FamilySection = SMALL, seed: int = 1) -> str:
    sections = {plan.name: section for plan in problem.plans}
    return check_chain("c", problem.plans, problem.shape[2], sections, seed)


def assert_says(line: str, said: str) -> None:
    """Assert that a line is what is said here, and then how far from 1 a sum is: hardly."""
    found = re.fullmatch(re.escape(said) + SUM, line)
    assert found is not None, line
    assert abs(float(found[1])) <= TOLERANCE


SHORT = SMALL.model_copy(update={"pixelcnn_layers": 3})
"""On slices of 8x8 it leaves 664 pairs of a law and a pixel of context unseen, by a count that `test_reach` has."""

FAR = PLUS_PLUS.model_copy(update={"embedder_layers": 3})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("raster", "raster", (2, 9, 1)),
            "raster: causal (largest forbidden derivative 0 on 2x3, 0 blind spots; contexts of 1 slices see no later "
            "bit); without context; normalised (all 256 targets of 2x2x1 with 4 levels",
        ),
        (
            ("size", "rest", (6, 4, 1)),
            "rest: causal (largest forbidden derivative 0 on 3x2, 0 blind spots; contexts of 3 slices see no later "
            "bit); context reaches 2 of 2 pixels, no blind spot; normalised (all 256 targets of 2x2x1 with 4 levels",
        ),
        (
            ("depth", "low", (8, 8, 1), SHORT),
            "low: causal (largest forbidden derivative 0 on 3x3, 0 blind spots; contexts of 1 slices see no later "
            "bit); context reaches 3 of 7 pixels, 664 of 4,096 blind spots: the law of pixel (0, 0) does not see that "
            "of (0, 6); normalised (all 16 targets of 2x2x1 with 2 levels",
        ),
        (
            ("depth", "low", (8, 8, 3), FAR),
            "low: causal (largest forbidden derivative 0 on 4x4, 0 blind spots; contexts of 1 slices see no later "
            "bit); context reaches 7 of 7 pixels, no blind spot; normalised (all 2 levels of each sub-pixel of 4x4x3",
        ),
    ],
    ids=["raster", "rest", "blind", "laws"],
)
def test_what_is_said_of_a_stage(arguments: tuple[Any, ...], said: str) -> None:
    assert_says(stage_line(*arguments), said)


@pytest.mark.parametrize(
    ("most", "targets"),
    [
        (256, "all 256 targets of 2x2x1 with 4 levels"),
        (255, "all 16 targets of 1x2x1 with 4 levels"),
        (15, "all 4 targets of 1x1x1 with 4 levels"),
        (3, "all 2 targets of 1x1x1 with 2 levels"),
        (1, "all 4 levels of each sub-pixel of 2x3x1"),
    ],
)
def test_targets_are_enumerated_up_to_a_limit(most: int, targets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "MOST_IMAGES", most)
    assert f"; normalised ({targets} sum to 1 " in stage_line("raster", "raster", (2, 9, 1))


def bit_by_bit(num_bits: int, channels: int) -> Problem:
    """Describe a chain of large images with one stage for each bit."""
    parts = {f"b{bit}": Part(1, "all", (bit, bit + 1)) for bit in range(num_bits)}
    return resolve(parts, (8, 8, channels), num_bits)


@pytest.mark.parametrize(
    ("most", "channels", "images"),
    [
        (1 << 12, 3, "all 4,096 images of 2x2x3 with 1 bit"),
        ((1 << 12) - 1, 3, "all 64 images of 1x2x3 with 1 bit"),
        (63, 3, "all 8 images of 1x1x3 with 1 bit"),
        (7, 3, "all 4 images of 1x2x1 with 1 bit"),
        (3, 1, "all 2 images of 1x1x1 with 1 bit"),
    ],
)
def test_images_are_enumerated_up_to_a_limit(
    most: int, channels: int, images: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_check, "MOST_IMAGES", most)
    assert_says(chain_line(bit_by_bit(1, channels)), f"chain c: normalised ({images}")


def test_what_is_said_of_a_chain_that_no_limit_admits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_check, "MOST_IMAGES", 1)
    expected = "chain c: not enumerated, because it can make at least 2^1 images; its stages are checked"
    assert chain_line(bit_by_bit(1, 3)) == expected


def test_bits_that_no_stage_parts_become_one_where_they_make_too_many_images() -> None:
    problem = resolve({"high": Part(1, "all", (0, 3)), "low": Part(1, "all", (3, 6))}, (8, 8, 1), 6)
    assert_says(chain_line(problem), "chain c: normalised (all 256 images of 2x2x1 with 2 bits")


def told(check_once: Callable[[int], str], seed: int, others: int) -> str:
    """Return what is told of a fault, where others have drawn from torch's generator before."""
    torch.manual_seed(others)
    before = torch.random.get_rng_state()
    with pytest.raises(InputError) as caught:
        check_once(seed)
    assert torch.equal(torch.random.get_rng_state(), before)
    return str(caught.value)


FAULTY: dict[str, tuple[Callable[[int], str], planted.Plant]] = {
    "leak": (lambda seed: stage_line("raster", "raster", (3, 3, 1), seed=seed), planted.mask_b_for_mask_a),
    "stage": (lambda seed: stage_line("raster", "raster", (3, 3, 1), seed=seed), planted.softmax_forgotten),
    "chain": (lambda seed: chain_line(bit_by_bit(1, 1), seed=seed), planted.softmax_forgotten),
}


@pytest.mark.parametrize("what", FAULTY)
def test_a_fault_is_told_in_the_same_figures_with_the_same_seed_and_no_other(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_once, plant = FAULTY[what]
    plant(monkeypatch)
    message = told(check_once, seed=1, others=1)
    assert re.search(r"\d\.\d", message) is not None
    assert told(check_once, seed=1, others=2) == message
    assert told(check_once, seed=2, others=1) != message


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("size", "rest", (8, 8, 1)), ("depth", "low", (8, 8, 3), PLUS_PLUS)], ids=str)
def test_a_check_leaves_the_random_numbers_of_others_alone(arguments: tuple[Any, ...]) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    stage_line(*arguments)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize(("wrong", "told_of"), [((0.5, 1.25), 0.5), ((0.75, 1.5), 1.5)])
def test_of_laws_that_do_not_sum_to_one_the_farthest_is_told(
    wrong: tuple[float, float], told_of: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = DiscretisedMixture.probs

    def scaled(law: DiscretisedMixture) -> Tensor:
        found = sound(law)
        factors = torch.ones(found.shape[:-1], dtype=found.dtype).flatten()
        factors[5], factors[7] = wrong
        return found * factors.view(found.shape[:-1])[..., None]

    monkeypatch.setattr(DiscretisedMixture, "probs", scaled)
    with pytest.raises(InputError, match=r"^stages.low: expected probabilities that sum to 1, got ") as caught:
        stage_line("depth", "low", (8, 8, 3), PLUS_PLUS)
    assert float(str(caught.value).split()[-1]) == pytest.approx(told_of, rel=1e-9)


def test_contexts_are_checked_on_images_as_files_hold_them(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Tensor] = []
    monkeypatch.setattr(check, "hidden_bits_leak", lambda stage, slices, generator: checked.append(slices))
    stage_line("size", "rest", (16, 12, 1))
    (slices,) = checked
    assert slices.dtype == torch.uint8
    assert slices.shape == (2, 2, 2, 8, 6, 1)
    assert slices.unique().tolist() == [0, 1, 2, 3]
    assert not torch.equal(slices[0], slices[1])


class Doubled(Chunked):
    """A law whose every probability is twice what it should be."""

    def log_prob(self, levels: Tensor) -> Tensor:
        """Return twice the probability."""
        return super().log_prob(levels) + 0.7


def test_a_chain_is_checked_with_the_classes_that_its_stages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = SubscalePixelNetwork.laws
    problem = resolve({"raster": Part(1, "all", (0, 1))}, (8, 8, 1), 1, num_classes=3)
    assert_says(chain_line(problem), "chain c: normalised (all 16 images of 2x2x1 with 1 bit")

    def wrong_for_classes(model: Any, embedded: Tensor, features: Tensor | None, context: Context) -> Law:
        law = sound(model, embedded, features, context)
        assert isinstance(law, Chunked)
        return law if context.label is None else Doubled(law.features, law.head)

    monkeypatch.setattr(SubscalePixelNetwork, "laws", wrong_for_classes)
    with pytest.raises(InputError, match=r"^chains.c: expected the probabilities of all images to sum to 1, got "):
        chain_line(problem)


@pytest.mark.parametrize(("height", "width", "fits"), [(4, 8, True), (4, 6, False), (6, 4, False)])
def test_a_family_takes_slices_by_both_their_sides(height: int, width: int, fits: bool) -> None:
    shape = StageShape(height, width, 1, 4, 0, 4, num_positions=1)
    assert takes(PLUS_PLUS, shape) == fits
    assert takes(SMALL, shape)
