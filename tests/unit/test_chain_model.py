"""A loaded chain samples, scores and walks, for NumPy arrays and torch tensors, and tells mistakes in one line."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_files import assert_mistake, made_up_models

import spn
from spn import ChainModel
from spn.api.arrays import as_levels
from spn.config import InputError
from spn.generation import keyed_uniforms
from spn.image import split_slices


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChainModel]:
    """Chains with random weights: of RGB images, of codes, and of classes."""
    return made_up_models(tmp_path_factory)


@pytest.mark.slow
def test_importing_the_package_takes_no_torch() -> None:
    code = "import sys, spn; assert not {'torch', 'numpy', 'pydantic'} & {*sys.modules}; spn.load; import torch"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        spn.lode  # noqa: B018
    assert (Path(spn.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("name", [pytest.param("raster", marks=pytest.mark.slow), "depth", "latent", "classes"])
def test_samples_are_scored_in_the_same_kind_of_array(name: str, models: dict[str, ChainModel]) -> None:
    model = models[name]
    label = [0, 1, 2] if name == "classes" else None
    images = model.sample(3, seed=1)
    assert isinstance(images, np.ndarray)
    assert images.dtype == np.uint8
    assert images.shape == (3, *model.shape)
    bits = model.bits_per_dim(images, label=label)
    assert bits.dtype == np.float64
    nats = model.nats(images, label=label)
    assert bits == pytest.approx(nats / np.log(2) / model.num_dims)
    stages = model.nats(images, per="stage", label=label)
    assert list(stages) == list(model.stages)
    assert sum(stages.values()) == pytest.approx(nats)
    pixels = model.nats(images, per="pixel", label=label)
    assert pixels.shape == (3, *((4, 4) if name == "latent" else model.shape[:2]))
    assert pixels.sum((1, 2)) == pytest.approx(nats)
    tensor = model.bits_per_dim(torch.from_numpy(images), label=label)
    assert isinstance(tensor, torch.Tensor)
    assert torch.equal(tensor, torch.from_numpy(bits))


def test_bits_of_a_pixel_are_where_it_is(models: dict[str, ChainModel]) -> None:
    """Another last pixel of the raster changes no bits but its own."""
    model = models["raster"]
    images = model.sample(2, seed=3)
    other = images.copy()
    other[:, -1, -1] ^= 5
    changed = model.nats(images, per="pixel", exact=True) != model.nats(other, per="pixel", exact=True)
    assert changed[:, -1, -1].all()
    assert changed.sum() == len(images)


def test_bits_of_a_slice_are_where_its_pixels_are(models: dict[str, ChainModel]) -> None:
    model = models["depth"]
    images = torch.from_numpy(model.sample(2, seed=3))
    pixels = torch.from_numpy(model.nats(images.numpy(), per="pixel", exact=True))
    for m, n in ((0, 0), (0, 1), (1, 0), (1, 1)):
        nats = torch.zeros(2, dtype=torch.float64)
        for stage, network in model.stages.values():
            slices = split_slices(images, 2)
            nats += stage.nats(copy.deepcopy(network).double(), slices, stage.positions((m, n), 2))
        torch.testing.assert_close(pixels[:, m::2, n::2].sum((1, 2)), nats)


@pytest.mark.slow
def test_a_sample_depends_on_seed_number_and_label_alone(models: dict[str, ChainModel]) -> None:
    for name in ("depth", "classes"):
        model = models[name]
        images = model.sample(5, seed=7, exact=True)
        assert np.array_equal(model.sample(5, seed=7, exact=True, batch_size=2), images)
        assert np.array_equal(model.sample(2, seed=7, exact=True), images[:2])
        assert not np.array_equal(model.sample(5, seed=8, exact=True), images)
    seven = models["classes"].sample(3, seed=1, label=7, exact=True)
    assert np.array_equal(seven, models["classes"].sample(3, seed=1, label="seven", exact=True))
    assert np.array_equal(seven, models["classes"].sample(3, seed=1, label=[7, 7, "seven"], exact=True))
    assert not np.array_equal(seven, models["classes"].sample(3, seed=1, label=6, exact=True))


@pytest.mark.parametrize("label", [np.int64(7), np.array(7), torch.tensor(7), [np.int64(7)] * 2, torch.tensor([7, 7])])
def test_any_whole_number_is_a_class(label: Any, models: dict[str, ChainModel]) -> None:
    model = models["classes"]
    images = model.sample(2, seed=1, label=label, exact=True)
    assert np.array_equal(images, model.sample(2, seed=1, label=7, exact=True))
    assert np.array_equal(model.nats(images, label=label), model.nats(images, label=7))
    drawn = np.stack([images, images])
    assert np.array_equal(model.likeliest(drawn, label=label).nats, model.likeliest(drawn, label=7).nats)


@pytest.mark.slow
def test_temperature_is_the_chains_own_unless_told(models: dict[str, ChainModel]) -> None:
    model = models["depth"]
    own = model.sample(4, seed=1, exact=True)
    assert np.array_equal(own, model.sample(4, seed=1, exact=True, temperature={"low": 0.9}))
    cold = dict(model.sample_stages(4, seed=1, exact=True, temperature=1e-3))
    assert len(np.unique(cold["low"], axis=0)) == 1  # nothing is left to chance
    high = dict(model.sample_stages(4, seed=1, exact=True, temperature={"low": 1e-3}))["high"]
    assert np.array_equal(high & 0b1100, own & 0b1100)


def test_a_chain_goes_on_from_given_images(models: dict[str, ChainModel]) -> None:
    model = models["depth"]
    steps = dict(model.sample_stages(3, seed=1, exact=True))
    assert list(steps) == ["high", "low"]
    assert not (steps["high"] & 0b11).any()
    again = model.sample(given=steps["high"], stages=["low"], seed=1, exact=True)
    assert np.array_equal(again, steps["low"])
    kept = model.sample(given=torch.from_numpy(steps["low"]), stages=["low"], seed=2, exact=True)
    assert isinstance(kept, torch.Tensor)
    assert np.array_equal(kept.numpy() & 0b1100, steps["high"])
    assert np.array_equal(model.sample(3, seed=1, exact=True, stages=["high"]), steps["high"])


@pytest.mark.parametrize("name", ["raster", "depth", "classes"])
def test_the_walk_draws_what_sampling_draws(name: str, models: dict[str, ChainModel]) -> None:
    """A driver of one's own: the uniforms are those of sampling, so the images are too."""
    model = models[name]
    walk = model.walk(2, exact=True)
    pixels = []
    for offer in walk:
        stage = model.stages[offer.stage].stage
        shape = (stage.shape.height, stage.shape.width, stage.shape.channels)
        uniforms = keyed_uniforms(1, offer.stage, offer.slice, [0, 1], shape)
        row, column = (place // offer.scale_factor for place in offer.pixel)
        temperature = model.params.chains[model.chain].temperature_of(offer.stage)
        law = offer.law if temperature == 1 else offer.law.tempered(temperature)
        offer.give(law.quantile(uniforms[:, row, column, offer.channel]).numpy())
        pixels.append((offer.stage, *offer.pixel, offer.channel))
    assert np.array_equal(walk.images.numpy(), model.sample(2, seed=1, exact=True))
    assert len({*pixels}) == len(pixels) == model.num_dims * (1 if name == "raster" else 2)


def test_the_walk_scores_what_nats_score(models: dict[str, ChainModel]) -> None:
    model = models["depth"]
    images = torch.from_numpy(model.sample(2, seed=5))
    walk, nats = model.walk(2, exact=True), torch.zeros(2, dtype=torch.float64)
    for offer in walk:
        stage = model.stages[offer.stage].stage
        slices = split_slices(images, offer.scale_factor)
        target = stage.target(slices, stage.positions(offer.slice, 2))
        row, column = (place // offer.scale_factor for place in offer.pixel)
        levels = target[:, row, column, offer.channel]
        nats -= offer.law.log_prob(levels)
        offer.give(levels)
    assert torch.equal(walk.images, images)
    assert nats.numpy() == pytest.approx(model.nats(images.numpy(), exact=True))


def test_a_walk_wants_levels(models: dict[str, ChainModel]) -> None:
    walk = models["raster"].walk(2)
    offer = next(walk)
    with pytest.raises(InputError, match=r"levels: expected 0 to 15 in stage raster, got others"):
        offer.give(np.array([0, 16]))
    with pytest.raises(InputError, match=r"levels: expected 2 whole numbers, got torch.float64 \[2\]"):
        offer.give(np.zeros(2))
    with pytest.raises(RuntimeError, match="row 0, column 0, channel 0: expected levels, was given none"):
        next(walk)


def grey(*shape: int, level: float = 1, dtype: Any = np.uint8) -> Any:
    return np.full(shape, level, dtype)


MISTAKES = {
    "type": ("depth", "nats", (grey(2, 8, 8, 3, dtype=np.float32),), {}, r"images: .* \(uint8\), got float32"),
    "record": (
        "depth",
        "nats",
        (grey(2, 8, 8, 3, dtype="i4,i4"),),
        {},
        r"images: expected whole numbers \(uint8\), got",
    ),
    "shape": ("depth", "nats", (grey(2, 8, 8, 1),), {}, r"images: expected \[N, 8, 8, 3\], N > 0, got \[2, 8, 8, 1\]"),
    "one": ("depth", "nats", (grey(8, 8, 3),), {}, r"images: expected \[N, 8, 8, 3\], N > 0, got \[8, 8, 3\]"),
    "none": ("depth", "nats", (grey(0, 8, 8, 3),), {}, r"images: expected .* N > 0, got \[0, 8, 8, 3\]"),
    "depth": ("depth", "nats", (grey(1, 8, 8, 3, level=16),), {}, r"images: expected levels 0 to 15 .*, got 16"),
    "per": ("depth", "nats", (grey(1, 8, 8, 3),), {"per": "slice"}, "per: expected image, stage or pixel, got slice"),
    "no class": ("classes", "nats", (grey(1, 8, 8, 1),), {}, "label: expected the classes of the images, because"),
    "a class": ("depth", "nats", (grey(1, 8, 8, 3),), {"label": 3}, "label: expected none, because depth is"),
    "which": ("classes", "sample", (2,), {"label": 10}, "label: expected one of the classes 0 to 9, got 10"),
    "name": ("classes", "sample", (2,), {"label": "dog"}, "label: .*dog"),
    "number": ("classes", "sample", (2,), {"label": [1]}, "label: expected a class for each of 2 images, got 1"),
    "halves": (
        "classes",
        "sample",
        (2,),
        {"label": np.array([1.7, 0.2])},
        "label: expected whole numbers or names, got 1.7",
    ),
    "half": ("classes", "sample", (2,), {"label": np.array(1.5)}, "label: expected whole numbers or names, got 1.5"),
    "images": ("depth", "sample", (0,), {}, "num_images: expected a positive whole number, got 0"),
    "no number": ("depth", "sample", (), {}, "num_images: expected a positive whole number, got None"),
    "cold": (
        "depth",
        "sample",
        (1,),
        {"temperature": 0.0},
        "temperature: expected a positive .* high, got 0.0",
    ),
    "stage": ("depth", "sample", (1,), {"temperature": {"hi": 1.0}}, "temperature: expected one of high, low, got hi"),
    "order": ("depth", "sample", (1,), {"stages": ["low", "high"]}, "stages: expected neighbours of high, low"),
    "nothing": ("depth", "sample", (1,), {"stages": ["low"]}, "given: expected images with what the stages before low"),
    "first": ("depth", "sample", (1,), {"given": grey(1, 8, 8, 3)}, "given: expected nothing for high, the first"),
    "many": (
        "depth",
        "sample",
        (1,),
        {"given": grey(2, 8, 8, 3), "stages": ["low"]},
        "given: expected 1 images, got 2",
    ),
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


OTHER_TYPES = {
    "halves": ("sample", (2.5,), {}, "num_images: expected a whole number, got 2.5"),
    "no batch": ("sample", (2,), {"batch_size": 0}, "batch_size: expected a positive whole number, got 0"),
    "text of a temperature": ("sample", (2,), {"temperature": "0.9"}, "temperature: expected a positive .*, got '0.9'"),
    "seed": ("sample", (2,), {"seed": 1.0}, "seed: expected a whole number, got 1.0"),
    "seed of a drawing": ("deepen", (None, 2), {"seed": "1"}, "seed: expected a whole number, got '1'"),
    "no batch of drawings": ("deepen", (None, 2), {"batch_size": 0}, "batch_size: expected a positive .*, got 0"),
    "half a draw": ("deepen", (None, 2), {"draws": 1.5}, "draws: expected a whole number, got 1.5"),
    "no batch to score": ("nats", (grey(1, 8, 8, 3),), {"batch_size": 0}, "batch_size: expected a positive .*, got 0"),
    "no batch to code": ("encode", (grey(1, 8, 8, 3),), {"batch_size": 0}, "batch_size: expected a positive .*, got 0"),
    "no batch to decode": ("decode", (b"",), {"batch_size": -1}, "batch_size: expected a positive .*, got -1"),
    "place": ("to", ("cuda:99",), {}, "device: expected a device of this machine, got cuda:99: "),
}


@pytest.mark.slow  # because fast tests refuse other types by themselves
@pytest.mark.parametrize(("method", "arguments", "options", "line"), OTHER_TYPES.values(), ids=OTHER_TYPES)
def test_other_types_are_told_in_one_line(
    method: str, arguments: tuple[Any, ...], options: dict[str, Any], line: str, models: dict[str, ChainModel]
) -> None:
    model, images = models["depth"], grey(1, 8, 8, 3)
    before = model.nats(images)
    assert_mistake(model, method, arguments, options, line)
    assert np.array_equal(model.nats(images), before)


@pytest.mark.slow
def test_lists_and_numbers_of_numpy_will_do(models: dict[str, ChainModel]) -> None:
    model: Any = models["depth"]
    images = model.sample(2, seed=1)
    assert np.array_equal(model.sample(np.int64(2), seed=np.int64(1), batch_size=np.int32(256)), images)
    assert np.array_equal(model.decode(model.encode(images.tolist()).content), images)
    assert np.array_equal(model.likeliest(images[None].tolist()).images, images)


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "u8", "i1", "i8", ">i2", ">u4"])
def test_any_type_of_whole_numbers_will_do(kind: str, models: dict[str, ChainModel]) -> None:
    levels = np.arange(8 * 8 * 3).reshape(1, 8, 8, 3) % 16
    expected = as_levels(levels.astype(np.uint8), (8, 8, 3), 4)
    assert torch.equal(as_levels(levels.astype(kind), (8, 8, 3), 4), expected)
    if kind[0] != ">":
        assert torch.equal(as_levels(torch.from_numpy(levels.astype(kind)), (8, 8, 3), 4), expected)
    with pytest.raises(InputError, match="expected levels 0 to 15"):
        as_levels((levels + 1).astype(kind), (8, 8, 3), 4)
