"""A chain draws the rest of an image: what is given comes back bit for bit, the rest is what sampling draws."""

from typing import Any

import numpy as np
import pytest
import torch
from experiment import codes_params, tiny_params, write_params
from model_files import assert_mistake, made_up, rgb_params

from spn import ChainModel
from spn.config import InputError, load_params
from spn.image import split_slices

SIZE, HIGH, LOW, SEED = 2, 0b1100, 0b0011, 3
CHAINS = {
    "raster": ["raster"],
    "subscale": ["subscale"],
    "depth": ["high", "low"],
    "size": ["first", "rest"],
    "multidimensional": ["first_high", "rest_high", "low"],
    "then_raster": ["first_high", "rest_high", "raster_low"],
    "diagonal": ["first_high", "diagonal_rest", "diagonal_low"],
}
UPSCALED = ["subscale", "depth", "size", "multidimensional", "then_raster", "diagonal"]
DEEPENED = ["depth", "multidimensional", "then_raster", "diagonal"]


def every_chain() -> dict[str, Any]:
    """Return RGB images of 4 bits, with a chain of every kind."""
    raw = rgb_params()
    part = raw["stages"]["high"]
    cells = {
        "subscale": (2, "all", [0, 4]),
        "first": (2, "first", [0, 4]),
        "rest": (2, "rest", [0, 4]),
        "first_high": (2, "first", [0, 2]),
        "rest_high": (2, "rest", [0, 2]),
        "raster_low": (1, "all", [2, 4]),
    }
    for name, (size, slices, bits) in cells.items():
        raw["stages"][name] = part | {"scale_factor": size, "slices": slices, "bits": bits}
    raw["stages"]["diagonal_rest"] = raw["stages"]["rest_high"] | {"order": "diagonal"}
    raw["stages"]["diagonal_low"] = part | {"slices": "all", "bits": [2, 4], "order": [[0, 0], [1, 0], [1, 1], [0, 1]]}
    return raw | {"chains": {name: {"stages": stages} for name, stages in CHAINS.items()}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChainModel]:
    """Chains with random weights: of RGB images, of codes, and of classes."""
    raw, folder = every_chain(), tmp_path_factory.mktemp("models")
    conditional = tiny_params()
    conditional["stages"]["low"]["class_conditional"] = True
    chains = {name: (raw, name) for name in CHAINS}
    chains |= {"classes": (conditional, "depth"), "latent": (codes_params(), "latent")}
    return {
        name: ChainModel(made_up(load_params(write_params(folder, params)), chain), folder)
        for name, (params, chain) in chains.items()
    }


def noise(*shape: int, levels: int = 16, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, levels, shape, dtype=np.uint8)


def spread(seed: int = 1) -> Any:
    """Hide pixels in no order, others of each of two images."""
    return np.random.default_rng(seed).random((2, 8, 8)) < 0.5


@pytest.mark.parametrize("name", CHAINS)
def test_inpainting_keeps_known_pixels_bit_for_bit(name: str, models: dict[str, ChainModel]) -> None:
    images, hidden = noise(2, 8, 8, 3), spread()
    drawn = models[name].inpaint(images, hidden, draws=2, seed=SEED)
    assert drawn.dtype == np.uint8
    assert drawn.shape == (2, *images.shape)
    assert all(np.array_equal(each[~hidden], images[~hidden]) for each in drawn)
    assert (drawn[0] != drawn[1])[hidden].mean() > 0.5
    assert not np.array_equal(drawn, models[name].inpaint(images, hidden, draws=2, seed=SEED + 1))


@pytest.mark.parametrize("name", ["multidimensional", "latent"])
def test_with_all_pixels_hidden_inpainting_samples(name: str, models: dict[str, ChainModel]) -> None:
    model = models[name]
    drawn = model.inpaint(noise(2, *model.shape), np.ones((8, 8), bool), draws=2, seed=SEED)
    assert np.array_equal(drawn.reshape(4, *model.shape), model.sample(4, seed=SEED))


def test_pixels_of_a_chain_of_codes_are_kept_too(models: dict[str, ChainModel]) -> None:
    images, hidden = noise(2, 8, 8, 1, levels=32), spread()
    drawn = models["latent"].inpaint(torch.from_numpy(images), torch.from_numpy(hidden), repeats=2)
    assert isinstance(drawn, torch.Tensor)
    assert np.array_equal(drawn[0].numpy()[~hidden], images[~hidden])
    assert not np.array_equal(drawn[0].numpy()[hidden], images[hidden])


@pytest.mark.parametrize("name", UPSCALED)
def test_an_upscaled_image_sub_sampled_is_the_image(name: str, models: dict[str, ChainModel]) -> None:
    small = noise(3, 4, 4, 3)
    drawn = models[name].upscale(small, draws=2, seed=SEED)
    assert drawn.shape == (2, 3, 8, 8, 3)
    assert all(np.array_equal(each[:, ::SIZE, ::SIZE], small) for each in drawn)
    assert (drawn[0] != drawn[1])[:, 1::SIZE].mean() > 0.5


@pytest.mark.parametrize("name", DEEPENED)
def test_a_deepened_image_keeps_its_high_bits(name: str, models: dict[str, ChainModel]) -> None:
    images = noise(3, 8, 8, 3)
    drawn = models[name].deepen(images, draws=2, seed=SEED)
    assert drawn.shape == (2, *images.shape)
    assert all(np.array_equal(each & HIGH, images & HIGH) for each in drawn)
    assert ((drawn[0] ^ drawn[1]) & LOW).astype(bool).mean() > 0.5
    others = images & HIGH | noise(3, 8, 8, 3, levels=4, seed=1)
    assert np.array_equal(models[name].deepen(others, draws=2, seed=SEED), drawn), "low bits count"


def test_drawing_goes_on_as_sampling_does(models: dict[str, ChainModel]) -> None:
    small, images = noise(2, 4, 4, 3), noise(2, 8, 8, 3)
    whole = np.zeros_like(images)
    whole[:, ::SIZE, ::SIZE] = small
    size, depth = models["size"], models["multidimensional"]
    expected = size.sample(given=whole, stages=["rest"], seed=SEED)
    assert np.array_equal(size.upscale(small, seed=SEED)[0], expected)
    expected = depth.sample(given=np.concatenate([images] * 2), stages=["low"], seed=SEED, temperature=0.5)
    assert np.array_equal(depth.deepen(images, draws=2, seed=SEED, temperature=0.5).reshape(expected.shape), expected)


@pytest.mark.parametrize(("name", "shared"), [("size", 0b1111), ("multidimensional", HIGH)])
def test_samples_of_the_first_stage_are_upscaled(name: str, shared: int, models: dict[str, ChainModel]) -> None:
    drawn = models[name].upscale(num_images=2, draws=2, seed=SEED)
    assert np.array_equal(drawn[0], models[name].sample(2, seed=SEED))
    assert not ((drawn[0] ^ drawn[1])[:, ::SIZE, ::SIZE] & shared).any()
    assert (drawn[0] != drawn[1]).mean() > 0.3


def test_samples_of_the_first_stages_are_deepened(models: dict[str, ChainModel]) -> None:
    drawn = models["multidimensional"].deepen(num_images=2, draws=2, seed=SEED)
    assert np.array_equal(drawn[0], models["multidimensional"].sample(2, seed=SEED))
    assert not ((drawn[0] ^ drawn[1]) & HIGH).any()
    assert (drawn[0] != drawn[1]).mean() > 0.3


@pytest.mark.slow
def test_a_draw_depends_on_seed_and_number_and_not_on_the_batch(models: dict[str, ChainModel]) -> None:
    model = models["multidimensional"]
    small, images = noise(3, 4, 4, 3), noise(2, 8, 8, 3)
    calls: list[Any] = [
        lambda **how: model.upscale(small, draws=2, **how),
        lambda **how: model.deepen(num_images=3, draws=2, **how),
        lambda **how: model.inpaint(images, spread(), draws=3, **how),
    ]
    for call in calls:
        drawn = call(seed=SEED, exact=True)
        assert np.array_equal(call(seed=SEED, exact=True, batch_size=2), drawn)
        assert not np.array_equal(call(seed=SEED + 1, exact=True), drawn)


def test_classes_are_those_of_the_images_in_every_draw(models: dict[str, ChainModel]) -> None:
    model, images = models["classes"], noise(3, 8, 8, 1, levels=32)
    drawn = model.deepen(images, draws=2, seed=SEED, label=[7, "two", 0])
    label = [7, 2, 0] * 2
    expected = model.sample(given=np.concatenate([images] * 2), stages=["low"], seed=SEED, label=label)
    assert np.array_equal(drawn.reshape(expected.shape), expected)
    of_samples = model.deepen(num_images=3, draws=2, seed=SEED)
    assert np.array_equal(of_samples[0], model.sample(3, seed=SEED))
    with pytest.raises(InputError, match="label: expected the classes of the images, because depth"):
        model.deepen(images)


def log_probs(model: ChainModel, images: Any) -> Any:
    """Score images by a walk of one's own, sub-pixel by sub-pixel."""
    levels = torch.from_numpy(images)
    total = torch.zeros(len(levels), dtype=torch.float64)
    for offer in model.walk(len(levels), exact=True):
        stage = model.stages[offer.stage].stage
        target = stage.target(split_slices(levels, offer.scale_factor), stage.positions(offer.slice, len(levels)))
        row, column = (place // offer.scale_factor for place in offer.pixel)
        given = target[:, row, column, offer.channel]
        total += offer.law.log_prob(given)
        offer.give(given)
    return total.numpy()


def test_the_likeliest_draw_is_that_of_the_greatest_exact_log_likelihood(models: dict[str, ChainModel]) -> None:
    model, images = models["multidimensional"], noise(2, 8, 8, 3)
    drawn = model.inpaint(images, spread(), draws=5, seed=SEED)
    found = model.likeliest(drawn, exact=True)
    scores = log_probs(model, drawn.reshape(-1, 8, 8, 3)).reshape(5, 2)
    assert found.nats == pytest.approx(-scores)
    assert np.array_equal(found.chosen, scores.argmax(0))
    assert len(np.unique(scores)) == scores.size
    for number, image in enumerate(found.images):
        assert np.array_equal(image, drawn[scores[:, number].argmax(), number])
    tensors = model.likeliest(torch.from_numpy(drawn), exact=True)
    assert torch.equal(tensors.images, torch.from_numpy(found.images))


def test_the_likeliest_of_classes_has_the_label_of_its_image(models: dict[str, ChainModel]) -> None:
    model = models["classes"]
    drawn = model.deepen(num_images=3, draws=2)
    nats = model.likeliest(drawn, label=[0, 1, 2]).nats
    assert nats[1] == pytest.approx(model.nats(drawn[1], label=[0, 1, 2]))


SMALL, WHOLE = (1, 4, 4, 3), (1, 8, 8, 3)
MISTAKES: dict[str, tuple[str, str, tuple[Any, ...], dict[str, Any], str]] = {
    "raster": ("raster", "upscale", (noise(*SMALL),), {}, "chain raster: expected a first stage of scale_factor 2 or"),
    "codes": ("latent", "upscale", (noise(1, 4, 4, 1),), {}, "chain latent: expected a chain of pixels, got .* of vq"),
    "small": ("size", "upscale", (noise(*WHOLE),), {}, r"images: expected \[N, 4, 4, 3\], .*, got \[1, 8, 8, 3\]"),
    "levels": ("size", "upscale", (noise(*SMALL) + 16,), {}, r"images: expected levels 0 to 15 \(4 bits\), got"),
    "shallow": (
        "size",
        "deepen",
        (noise(*WHOLE),),
        {},
        r"chain size: .* of low bits, got first of bits \[0, 4\], rest",
    ),
    "flat": (
        "raster",
        "deepen",
        (noise(*WHOLE),),
        {},
        r"chain raster: expected .* low bits, got raster of bits \[0, 4",
    ),
    "large": ("depth", "deepen", (noise(*SMALL),), {}, r"images: expected \[N, 8, 8, 3\], .*, got \[1, 4, 4, 3\]"),
    "neither": ("depth", "deepen", (), {}, "num_images: expected a number, or images, got neither"),
    "both": ("size", "upscale", (noise(*SMALL), 2), {}, "num_images: expected none beside images"),
    "no first": (
        "subscale",
        "upscale",
        (None, 2),
        {},
        r"chain subscale: .* slice \(0,0\) alone, .* got subscale, which",
    ),
    "draws": ("size", "upscale", (noise(*SMALL),), {"draws": 0}, "draws: expected a positive whole number, got 0"),
    "none": ("size", "upscale", (None, 0), {}, "num_images: expected a positive whole number, got 0"),
    "repeats": ("depth", "inpaint", (noise(*WHOLE), spread()[:1]), {"repeats": 0}, "repeats: expected a positive"),
    "cold": ("size", "upscale", (noise(*SMALL),), {"temperature": {"low": 1.0}}, "temperature: expected one of first"),
    "mask": (
        "depth",
        "inpaint",
        (noise(*WHOLE), np.ones((4, 4), bool)),
        {},
        r"hidden: expected bool \[8, 8\] or \[1, 8, 8\], got bool \[4, 4\]",
    ),
    "kind": ("depth", "inpaint", (noise(*WHOLE), noise(8, 8)), {}, r"hidden: expected bool .*, got uint8 \[8, 8\]"),
    "bound": ("latent", "likeliest", (noise(2, 1, 8, 8, 1),), {}, "chain latent: expected exact .* pixels, .* of vq"),
    "draw": ("depth", "likeliest", (noise(*WHOLE),), {}, r"drawn: expected \[draws, N, .*, got \[1, 8, 8, 3\]"),
}


@pytest.mark.parametrize(("name", "method", "arguments", "options", "line"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_in_one_line(
    name: str,
    method: str,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    line: str,
    models: dict[str, ChainModel],
) -> None:
    assert_mistake(models[name], method, arguments, options, line)
