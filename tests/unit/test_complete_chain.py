"""What a chain draws of test images for the report: which parts are given, and what is measured of the rest."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiment import write_params
from matplotlib.axes import Axes
from model_files import made_up, rgb_params
from torch import Tensor

from spn import ChainModel
from spn.config import CompletionSection, load_params
from spn.evaluation.inpainting import conditional_bits, hidden_half, mean_and_error
from spn.pipeline.complete_chain import _complete, _measure, _pixel_bits
from spn.provenance import results_of
from spn.report.bits import draw_maps
from spn.report.completed import draw_completed

SECTION = CompletionSection(masks=("left",), num_images=3, draws=2, repeats=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChainModel]:
    """A raster chain and one of slices and bits, with random weights."""
    folder = tmp_path_factory.mktemp("models")
    params = load_params(write_params(folder, rgb_params()))
    return {chain: ChainModel(made_up(params, chain), folder) for chain in ("raster", "depth")}


def images() -> Tensor:
    return torch.randint(16, (3, 8, 8, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def test_a_chain_is_given_the_parts_that_it_has_stages_for(models: dict[str, ChainModel]) -> None:
    found = {name: _complete(model, images(), SECTION, None) for name, model in models.items()}
    assert {name: list(parts) for name, parts in found.items()} == {
        "raster": ["left"],
        "depth": ["left", "upscale", "deepen"],
    }
    left, upscale, deepen = found["depth"].values()
    hidden = torch.zeros(8, 8, dtype=torch.bool)
    hidden[:, :4] = True
    assert torch.equal(left.hidden, hidden)
    hidden[:] = True
    assert torch.equal(deepen.hidden, hidden)
    hidden[::2, ::2] = False
    assert torch.equal(upscale.hidden, hidden)
    for part in (left, upscale):
        assert torch.equal(part.drawn[:, :, ~part.hidden], images()[:, ~part.hidden].expand(2, -1, -1, -1))
        assert torch.equal(part.given[:, ~part.hidden], images()[:, ~part.hidden])
        assert not torch.equal(part.given, images())
    assert torch.equal(deepen.drawn & 0b1100, (images() & 0b1100).expand(2, -1, -1, -1, -1))
    assert torch.equal(deepen.given, images() & 0b1100)
    assert [part.title for part in found["depth"].values()] == ["left half hidden", "slice (0,0)", "2 of 4 bits"]


def test_the_error_is_that_of_drawn_levels_alone(models: dict[str, ChainModel]) -> None:
    for name, part in _complete(models["depth"], images(), SECTION, None).items():
        every = (part.drawn.double() - images().double()).abs()[:, :, part.hidden]
        expected = mean_and_error(every.mean((0, 2, 3)))
        figures = _measure(models["depth"], part, images(), None)
        assert figures == {"absolute_error": pytest.approx(expected, rel=1e-9)}, name


def test_only_an_exact_likelihood_tells_the_bits_of_what_is_hidden(tmp_path: Path) -> None:
    for law in ("mixture", "dequantised"):
        raw: dict[str, Any] = rgb_params()
        raw["stages"]["raster"]["model"]["law"] = law
        model = ChainModel(made_up(load_params(write_params(tmp_path, raw)), "raster"), tmp_path)
        part = _complete(model, images(), CompletionSection(masks=("lower",), draws=2, repeats=1), None)["lower"]
        assert ("conditional_bits_per_dim" in _measure(model, part, images(), None)) == (law == "mixture")


def test_the_bits_of_pixels_add_up_to_those_of_images(models: dict[str, ChainModel]) -> None:
    for model in models.values():
        bits = _pixel_bits(model, images(), None)
        np.testing.assert_allclose(bits.sum((1, 2)), model.nats(images().numpy()) / np.log(2), rtol=1e-5)


def test_what_is_made_with_a_model_file_is_needed_where_it_is_shown(tmp_path: Path) -> None:
    params = load_params(write_params(tmp_path, rgb_params() | {"completion": {}, "codec": {}}))
    needs = {str(result.path): {str(need) for need in result.needs} for result in results_of(params)}
    for chain in params.chains:
        made = {f"results/chains/{chain}/{file}" for file in ("completion/metrics.json", "rate.json")}
        for path in made:
            assert needs[path] == {f"results/chains/{chain}/model.safetensors"}
        assert made <= needs[f"mlflow/chains/{chain}.json"]
        assert made <= needs["results/plots/report.json"]


def test_every_image_has_its_own_map(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown, sound = list[tuple[np.ndarray, Any]](), Axes.imshow

    def noting(axes: Axes, drawn: np.ndarray, **options: Any) -> Any:
        shown.append((np.asarray(drawn), options.get("vmax")))
        return sound(axes, drawn, **options)

    monkeypatch.setattr(Axes, "imshow", noting)
    bits = np.arange(24.0).reshape(2, 3, 4)
    draw_completed(torch.zeros(2, 6, 8, 1, dtype=torch.uint8), [], bits, 15)
    pictures = np.zeros((2, 6, 8, 1), np.uint8)
    draw_maps(tmp_path / "maps.png", pictures, bits, ["a", "b"], np.ones(2), 15, "bits/dim", "a pixel")
    maps, highest = zip(*(each for each in shown if each[0].shape == (3, 4)), strict=True)
    assert np.array_equal(maps, [*bits, *bits])
    assert highest == (23.0,) * 4  # one scale of colours for all


def test_the_bits_of_what_is_hidden_are_those_of_its_pixels(models: dict[str, ChainModel]) -> None:
    model = models["raster"]
    ((stage, network),) = model.stages.values()
    found = conditional_bits(stage, network, images(), hidden_half("lower", 8, 8), None)
    assert found is not None
    expected = _pixel_bits(model, images(), None)[:, 4:].sum((1, 2)) / (4 * 8 * 3)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_a_mean_and_its_error_are_those_by_hand() -> None:
    found = mean_and_error(torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    assert found == {"mean": pytest.approx(3), "standard_error": pytest.approx((7 / 3) ** 0.5)}
    assert mean_and_error(torch.tensor([2.0], dtype=torch.float64)) == {"mean": 2.0, "standard_error": None}
