"""The model file: what loads is right, and everything else is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import planted
import pytest
import torch
from experiment import codes_params, tiny_params
from model_files import made_up, rgb_params, write_model
from torch import Tensor
from torch.nn import functional as F

import spn
from spn.api.model_file import FORMAT
from spn.checkpoint import load_tensors, save_tensors
from spn.config import InputError
from spn.first_stages.networks import Decoder
from spn.layers import gated_resnet
from spn.layers.elementwise import concat_elu
from spn.likelihood import DiscretisedMixture
from spn.stages import Stage
from spn.stages.scale import Scale

CHAINS = (("raster", rgb_params), ("depth", rgb_params), ("latent", codes_params), ("depth", tiny_params))


@pytest.mark.parametrize(("chain", "make"), CHAINS)
def test_what_is_written_is_loaded(chain: str, make: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    path = write_model(tmp_path, make(), chain)
    model = spn.load(path)
    assert model.chain == chain
    assert list(model.stages) == make()["chains"][chain]["stages"]
    before = {name: part.network.state_dict() for name, part in made_up(model.params, chain).parts.items()}
    for name, part in model.stages.items():
        for key, value in part.network.state_dict().items():
            assert torch.equal(value, before[name][key]), f"{name}/{key}"
    assert model.params.chains[chain].temperature == make()["chains"][chain].get("temperature", {})


def test_a_stage_may_be_called_like_the_probe(tmp_path: Path) -> None:
    raw = rgb_params()
    raw["stages"]["probe"] = raw["stages"].pop("raster")
    raw["chains"]["raster"]["stages"] = ["probe"]
    model = spn.load(write_model(tmp_path, raw, "raster"))
    assert model.sample(1, seed=1).shape == (1, 8, 8, 3)


def test_bytes_are_the_same_again(tmp_path: Path) -> None:
    first, second = (write_model(tmp_path / each, rgb_params(), "depth").read_bytes() for each in ("a", "b"))
    assert first == second


def test_a_folder_as_hubs_have_it_and_back(tmp_path: Path) -> None:
    path = write_model(tmp_path, rgb_params(), "depth")
    folder = spn.load(path).save(tmp_path / "hub")
    assert sorted(each.name for each in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    model = spn.load(folder)
    assert model.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert json.loads((folder / "config.json").read_text())["chain"] == "depth"
    assert (folder / "README.md").read_text() == model.card


def test_a_chain_is_found_in_results(tmp_path: Path) -> None:
    write_model(tmp_path, rgb_params(), "depth")
    assert spn.load(tmp_path / "results").chain == "depth"  # the only one
    write_model(tmp_path, rgb_params(), "raster")
    assert spn.load(tmp_path / "results", chain="raster").chain == "raster"
    with pytest.raises(InputError, match="found 2 chains: depth, raster"):
        spn.load(tmp_path / "results")
    with pytest.raises(InputError, match=r"nope/model.safetensors: expected a model file, found no file; .*depth"):
        spn.load(tmp_path / "results", chain="nope")


def test_weights_of_half_precision_are_what_the_probe_is_of(tmp_path: Path) -> None:
    full = write_model(tmp_path / "full", rgb_params(), "depth")
    half = write_model(tmp_path / "half", rgb_params(), "depth", torch.bfloat16)
    whole, rounded = spn.load(full), spn.load(half)
    assert whole.notes["probe"] != rounded.notes["probe"]
    weight = next(rounded.stages["low"].network.parameters())
    assert weight.dtype is torch.float32
    assert torch.equal(weight, weight.bfloat16().float())
    sizes = [sum(each.nbytes for each in load_tensors(path)[0].values()) for path in (full, half)]
    assert sizes[1] < 0.6 * sizes[0]


# Planted changes: the code is another than that under which the file was written.


def shifted_window(patch: pytest.MonkeyPatch) -> None:
    planted.shift_window(patch, 0, 1)


def swapped_channels(patch: pytest.MonkeyPatch) -> None:
    sound = Stage.target
    patch.setattr(Stage, "target", lambda *arguments: sound(*arguments).flip(-1))


def wrong_bit_range(patch: pytest.MonkeyPatch) -> None:
    sound = Stage.target
    patch.setattr(Stage, "target", lambda *arguments: sound(*arguments) ^ 1)


def another_activation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(F, "gelu", lambda features, **_: F.silu(features))


def another_activation_of_pixelcnn_pp(patch: pytest.MonkeyPatch) -> None:
    sound = concat_elu
    patch.setattr(gated_resnet, "concat_elu", lambda *arguments: sound(*arguments).clamp(min=-0.9))


def bins_half_a_level_off(patch: pytest.MonkeyPatch) -> None:
    sound = DiscretisedMixture._edge
    patch.setattr(DiscretisedMixture, "_edge", lambda self, full: sound(self, full) + 1 / self._last)


def noise_of_another_scale(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scale, "_kept", property(lambda self: self.noise.kept[self.noise.scale]))


def decoder_upside_down(patch: pytest.MonkeyPatch) -> None:
    sound = Decoder.forward
    patch.setattr(Decoder, "forward", lambda *arguments: sound(*arguments).flip(1))


CHANGES = {
    "shifted window": ("depth", shifted_window),
    "swapped channels": ("raster", swapped_channels),
    "wrong bit range": ("depth", wrong_bit_range),
    "another activation": ("depth", another_activation),
    "another activation of PixelCNN++": ("raster", another_activation_of_pixelcnn_pp),
    "bins half a level off": ("raster", bins_half_a_level_off),
    "noise of another scale": ("latent", noise_of_another_scale),
    "first stage upside down": ("latent", decoder_upside_down),
}


@pytest.mark.parametrize(("chain", "change"), CHANGES.values(), ids=CHANGES)
def test_code_that_means_something_else_is_refused(
    chain: str, change: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path, codes_params() if chain == "latent" else rgb_params(), chain)
    spn.load(path)
    change(monkeypatch)
    with pytest.raises(InputError, match=r"stage \w+: code and weights no longer mean the same: expected -?[\d.]+"):
        spn.load(path)


CACHES = {
    "high, rows overlap": ("depth", planted.rows_overlap_in_the_cache),
    "high, a pixel is not remembered": ("depth", planted.pixel_is_not_remembered),
}


@pytest.mark.parametrize(("chain", "change"), CACHES.values(), ids=CACHES)
def test_a_cached_walk_of_other_laws_is_refused(
    chain: str, change: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path, rgb_params(), chain)
    change(monkeypatch)
    with pytest.raises(InputError, match=r"stage \w+: cached sampling and a whole pass disagree"):
        spn.load(path)


def rewritten(path: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> Path:
    """Write a file again with other content, sealed as if nothing had happened."""
    tensors, notes = load_tensors(path)
    change(tensors, notes)
    save_tensors(path, tensors, notes)
    return path


def newer(_: dict[str, Tensor], notes: dict[str, Any]) -> None:
    notes["format"] = FORMAT + 1


def vast(_: dict[str, Tensor], notes: dict[str, Any]) -> None:
    notes["params"]["stages"]["low"]["model"]["width"] = 1_000_000


def misspelt(_: dict[str, Tensor], notes: dict[str, Any]) -> None:
    notes["params"]["stages"]["low"]["model"]["widht"] = 8


def incomplete(_: dict[str, Tensor], notes: dict[str, Any]) -> None:
    del notes["probe"]


def weights_of_another(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
    name = next(name for name in tensors if name.startswith("low/"))
    tensors[name] = tensors[name] * 1.001


def weights_that_are_no_numbers(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
    name = next(name for name in tensors if name.startswith("low/"))
    tensors[name] = tensors[name] * torch.nan


def without_a_weight(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
    del tensors[next(name for name in tensors if name.startswith("low/"))]


REFUSED = {
    newer: rf"expected a model file of format {FORMAT} or below, got {FORMAT + 1}: written by spn 0.0.0",
    vast: r"stage low: expected .* of shape \[.*1000000.*\], got \[",
    misspelt: r"its parameters are not valid in this version: stages.low.model.*widht",
    incomplete: r"expected the notes of a model file, found no probe",
    weights_of_another: r"stage low: code and weights no longer mean the same: expected [\d.]+ for probe picture 0",
    weights_that_are_no_numbers: r"stage low: code and weights no longer mean the same: .* got nan",
    without_a_weight: r"stage low: expected \S+ of shape \[.*\], got none",
}


@pytest.mark.parametrize(("change", "line"), REFUSED.items(), ids=[each.__name__ for each in REFUSED])
def test_other_files_are_refused_by_name(
    change: Callable[[dict[str, Tensor], dict[str, Any]], None], line: str, tmp_path: Path
) -> None:
    path = rewritten(write_model(tmp_path, rgb_params(), "depth"), change)
    with pytest.raises(InputError, match=line) as error:
        spn.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path, rgb_params(), "depth")
    content = path.read_bytes()
    for place in (20, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(InputError, match=str(path)):
            spn.load(path)
    path.write_bytes(content[:-8])
    with pytest.raises(InputError, match=str(path)):
        spn.load(path)


def test_a_checkpoint_is_no_model_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_tensors(path, {"weight": torch.zeros(1)}, {"recipe": {}})
    with pytest.raises(InputError, match="expected a model file, as `spn export` writes it, got another kind"):
        spn.load(path)
