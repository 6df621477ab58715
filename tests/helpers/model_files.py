"""Model files of networks with random weights, written without training."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.problem import random_model
from experiment import codes_params, tiny_params, write_params

import spn
from spn.api import ChainModel
from spn.api.model_file import Loaded, contents, load_model, of_chain
from spn.api.probe import Part
from spn.checkpoint import save_tensors
from spn.config import InputError, Params, load_params
from spn.first_stages import VqAutoencoder
from spn.stages import build_stage

PHOTOS = {
    "source": "photos",
    "name": "photos",
    "bits": 4,
    "size": 8,
    "stride": 8,
    "validation": 0.2,
    "test": 0.2,
}
PP = {"family": "pixelcnn_pp", "filters": 4, "resnets": 1}


def rgb_params() -> dict[str, Any]:
    """Return RGB images of 4 bits, with a raster chain of PixelCNN++ and one of size and depth upscaling."""
    raw = codes_params()
    raw["data"] = dict(PHOTOS)
    stages = {name: raw["stages"][name] for name in ("raster", "high", "low")}
    stages["raster"]["bits"], stages["low"]["bits"] = [0, 4], [2, 4]
    stages["raster"]["model"] = dict(PP)
    for name in ("high", "low"):
        stages[name]["model"]["pixelcnn_width"] = 6
    return raw | {"first_stages": {}, "schedules": {}, "stages": stages, "chains": {
        "raster": {"stages": ["raster"]}, "depth": {"stages": ["high", "low"], "temperature": {"low": 0.9}}
    }}  # fmt: skip


def made_up(params: Params, chain: str) -> Loaded:
    """Make a chain with random weights, and notes that say nothing true."""
    small = of_chain(params, chain).measured({name: (1.0, 0.6, 0.0) for name in ("codes1", "codes2")})
    parts = {}
    for number, plan in enumerate(small.plans[chain]):
        stage = build_stage(plan, small.grid(plan.name).shape)
        parts[plan.name] = Part(stage, random_model(small.stages[plan.name].model, stage.shape, number).float())
    first_stage = None
    if (codes := small.codes(chain)) is not None:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            levels, channels = 1 << small.data.bits, small.data.shape[2]
            first_stage = VqAutoencoder(small.first_stages[codes], channels, levels).eval().requires_grad_(False)
            first_stage.initialise(torch.randint(levels, (4, *small.data.shape)))
    figure = {"bits_per_dim": 1.5, "num_parameters": 7}
    training = {"steps": 1, "batch_size": 2, "seconds": 3.0}
    notes = {
        "version": "0.0.0",
        "commit": None,
        "figures": figure
        | {
            "dims": "sub-pixels",
            "standard_error": 0.1,
            "estimate": "exact",
            "conditioning": "none",
            "num_images": 5,
            "split": "test",
            "stages": dict.fromkeys(parts, figure),
        },
        "data": {
            "name": small.data.name,
            "release": "made up",
            "licence": small.data.licence,
            "digest": "2" * 64,
            "source_digest": "5" * 64,
            "num_images": {"train": 3, "validation": 4, "test": 5},
            "notes": "",
        },
        "training": dict.fromkeys(parts, training),
        "recipes": dict.fromkeys(parts, "7" * 64),
    }
    return Loaded(small, chain, parts, first_stage, notes)


def save_made_up(path: Path, params: Params, chain: str, dtype: torch.dtype = torch.float32) -> Path:
    """Write a model file of random weights to `path`; return it."""
    save_tensors(path, *contents(made_up(params, chain), dtype))
    return path


def write_model(folder: Path, raw: dict[str, Any], chain: str, dtype: torch.dtype = torch.float32) -> Path:
    """Write a chain of a params.yaml to its place in results below `folder`; return the path."""
    folder.mkdir(exist_ok=True)
    path = folder / "results/chains" / chain / "model.safetensors"
    return save_made_up(path, load_params(write_params(folder, raw)), chain, dtype)


@contextmanager
def loading_once() -> Iterator[None]:
    """Load a model file, and compute its probe, only once for each path: for tests of what is done with a chain."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spn.api.load_model", cache(load_model))
        yield


def made_up_models(factory: pytest.TempPathFactory) -> dict[str, ChainModel]:
    """Load chains with random weights: of RGB images, of codes, and of classes."""
    conditional = tiny_params()
    for stage in ("high", "low"):
        conditional["stages"][stage]["class_conditional"] = stage == "low"
    raws = {"raster": rgb_params(), "depth": rgb_params(), "latent": codes_params(), "classes": conditional}
    chains = {name: "depth" if name == "classes" else name for name in raws}
    return {name: spn.load(write_model(factory.mktemp(name), raw, chains[name])) for name, raw in raws.items()}


def assert_mistake(
    model: ChainModel, method: str, arguments: tuple[Any, ...], options: dict[str, Any], line: str
) -> None:
    """Assert that a call is refused in one line."""
    with pytest.raises(InputError, match=line) as error:
        getattr(model, method)(*arguments, **options)
    assert "\n" not in str(error.value)
