"""A mixture of orders is a likelihood: exact by enumeration, sampled by its own law, and no worse than it may be."""

import numpy as np
import pytest
import torch
from contract import Problem, build_problem, chains, ordered_chains
from torch import Tensor

from spn.data.in_memory import ImagesInMemory
from spn.evaluation import views as mixing
from spn.evaluation.evaluate import stage_nats
from spn.evaluation.mass import images_of
from spn.evaluation.views import mix_nats
from spn.generation import sample_chain_stage
from spn.generation.views import apply_views, drawn_views
from spn.image import apply_view

CHAINS = chains(1, 2) | ordered_chains(1, 2)
VIEWS = ("identity", "flip_horizontal", "flip_vertical", "rotate", "transpose")
CPU = torch.device("cpu")


def chain_nats(problem: Problem, images: Tensor) -> np.ndarray:
    """Return the nats of images under one order, [image]."""
    reader = ImagesInMemory(images)
    return np.sum([stage_nats(*part, reader, "test", CPU) for part in problem.parts], axis=0)


def mixed(problem: Problem, images: Tensor, views: tuple[str, ...]) -> np.ndarray:
    return mix_nats(np.stack([chain_nats(problem, apply_view(images, view)) for view in views]))


@pytest.mark.parametrize("views", [VIEWS, ("identity", "flip_horizontal"), ("transpose", "rotate")], ids=len)
@pytest.mark.parametrize("chain", ["raster", "multidimensional", "orders_mixed"])
def test_the_probabilities_of_all_images_sum_to_one(chain: str, views: tuple[str, ...]) -> None:
    problem = build_problem(CHAINS[chain], (2, 2, 1), 2)
    images = images_of(4, (2, 2, 1)).to(torch.uint8)
    probabilities = np.exp(-mixed(problem, images, views))
    assert probabilities.sum() == pytest.approx(1, abs=1e-9)
    # The views do differ: this is no law of one order.
    assert not np.allclose(probabilities, np.exp(-chain_nats(problem, images)))


def test_a_view_that_is_no_bijection_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = build_problem(CHAINS["raster"], (2, 2, 1), 2)
    images = images_of(4, (2, 2, 1)).to(torch.uint8)
    sound = mixed(problem, images, ("identity", "rotate"))
    monkeypatch.setattr("test_mixture_of_orders.apply_view", lambda images, view: images // 2 * 2)
    assert abs(np.exp(-mixed(problem, images, ("identity", "rotate"))).sum() - 1) > 1e-3
    assert np.exp(-sound).sum() == pytest.approx(1, abs=1e-9)


def test_the_mean_is_over_probabilities_of_whole_images() -> None:
    nats = np.array([[1.0, 800.0, 3.0], [2.0, 900.0, 3.0]])
    expected = [-np.log((np.exp(-1) + np.exp(-2)) / 2), 800 + np.log(2), 3]
    np.testing.assert_allclose(mix_nats(nats), expected, rtol=1e-12)


def test_a_mixture_loses_at_most_the_choice_of_a_view() -> None:
    problem = build_problem(CHAINS["multidimensional"], (4, 4, 1), 2)
    images = problem.images(20)
    best = np.min([chain_nats(problem, apply_view(images, view)) for view in VIEWS], axis=0)
    lost = mixed(problem, images, VIEWS) - best
    assert (lost >= 0).all()
    assert (lost <= np.log(len(VIEWS)) + 1e-12).all()


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_undoes_itself_and_moves_pixels_as_it_says(view: str) -> None:
    image = torch.arange(9).view(3, 3, 1)
    seen = apply_view(image, view)
    assert (
        seen[..., 0].tolist()
        == {
            "identity": [[0, 1, 2], [3, 4, 5], [6, 7, 8]],
            "flip_horizontal": [[2, 1, 0], [5, 4, 3], [8, 7, 6]],
            "flip_vertical": [[6, 7, 8], [3, 4, 5], [0, 1, 2]],
            "rotate": [[8, 7, 6], [5, 4, 3], [2, 1, 0]],
            "transpose": [[0, 3, 6], [1, 4, 7], [2, 5, 8]],
        }[view]
    )
    assert torch.equal(apply_view(seen, view), image)


def test_samples_follow_the_law_of_the_mixture() -> None:
    """Counts of all images of two pixels and two levels, drawn as sampling does, beside their probabilities."""
    problem, views, count = build_problem(chains(1, 1)["raster"], (1, 2, 1), 1), ("identity", "flip_horizontal"), 60_000
    ((stage, model),) = problem.parts
    seen = sample_chain_stage(stage, model, None, count, seed=3, temperature=1.0, batch_size=count)
    samples = apply_views(seen, drawn_views(views, count, seed=3))
    images = images_of(2, (1, 2, 1)).to(torch.uint8)
    probabilities = np.exp(-mixed(problem, images, views))
    alone = np.exp(-chain_nats(problem, images))
    found = np.array([(samples == image).flatten(1).all(1).double().mean().item() for image in images])
    errors = np.sqrt(probabilities * (1 - probabilities) / count)
    assert (np.abs(found - probabilities) < 4 * errors).all()
    assert np.abs(alone - probabilities).max() > 8 * errors.max()


def test_a_view_is_a_function_of_seed_and_image() -> None:
    drawn = drawn_views(VIEWS, 500, seed=1)
    assert drawn[:7] == drawn_views(VIEWS, 7, seed=1)
    assert drawn != drawn_views(VIEWS, 500, seed=2)
    assert min(drawn.count(view) for view in VIEWS) > 70
    assert drawn_views((), 3, seed=1) == ["identity"] * 3


def test_a_view_of_slices_is_that_of_the_images_they_make() -> None:
    images = torch.randint(4, (3, 4, 6, 1)).to(torch.uint8)
    plan = build_problem(CHAINS["subscale"], (4, 6, 1), 2).plans[0]
    reader = mixing.ViewedSlices(ImagesInMemory(images).of(plan), "rotate")
    expected = ImagesInMemory(images.flip(1, 2)).of(plan)
    indices = torch.tensor([0, 2])
    assert torch.equal(reader.of(plan).slices("test", indices), expected.slices("test", indices))
    assert reader.num_images("test") == 3
    assert reader.labels("test", indices) is None
