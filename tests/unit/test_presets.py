"""Every preset on real images: its own stages and chains, with small networks and few images, run in one process."""

import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiment import MODEL, TRAINING
from source_files import real_file

from benchmarks import crops
from spn.config import Params, load_params
from spn.data.hdf5 import SliceFile
from spn.data.layout import Split
from spn.data.preprocess import write_slices
from spn.evaluation.evaluate import chain_metrics, likelihood_metrics, stage_nats
from spn.likelihood import DequantisedMixture, DiscretisedMixture
from spn.models import Model
from spn.pipeline.extract_codes import extract_codes
from spn.pipeline.opening import open_slices
from spn.stages import Stage
from spn.trained import load_trained
from spn.training import train_stage

PRESETS = Path(__file__).parents[2] / "presets"
CPU = torch.device("cpu")
FEW: dict[Split, int] = {"train": 12, "validation": 4, "test": 4}
Fill = Callable[[Path], None]

SMALL: dict[str, dict[str, Any]] = {
    "spn": MODEL | {"pixelcnn_width": 9},
    "gated_pixelcnn": {"width": 9, "layers": 2},
    "pixelcnn_pp": {"filters": 4, "resnets": 1, "mixtures": 2},
    "pixelsnail": {"width": 6, "blocks": 1, "resnets": 1, "key_width": 4, "value_width": 4, "mixtures": 2},
    "imagebart": {"width": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1},
}
"""What makes a family's network small."""


def no_files(sources: Path) -> None:
    """Fill nothing: the photographs are bundled."""


def cifar10(sources: Path) -> None:
    """Write the official files, with the first images of each batch."""
    subprocess.run([sys.executable, real_file("unpack_cifar10.py"), sources], check=True, capture_output=True)
    for path in (sources / "cifar-10-batches-py").glob("*_batch*"):
        batch = pickle.loads(path.read_bytes())
        path.write_bytes(pickle.dumps({key: batch[key][:20] for key in batch}, protocol=2))


def mnist(sources: Path) -> None:
    os.symlink(real_file("mnist"), sources / "mnist")


def kodak(name: str) -> Fill:
    def fill(sources: Path) -> None:
        os.symlink(real_file("kodak"), sources / name)

    return fill


def photographs(name: str, *options: str) -> Fill:
    def fill(sources: Path) -> None:
        assert crops.main([str(real_file("kodak")), str(sources / name), *options]) == 0

    return fill


def classes(name: str) -> Fill:
    """Sort the pictures into two classes."""

    def fill(sources: Path) -> None:
        for number, picture in enumerate(sorted(real_file("kodak").iterdir())):
            folder = sources / name / f"class{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            os.symlink(picture, folder / picture.name)

    return fill


CASES: dict[str, tuple[Fill, dict[str, Any]]] = {
    "photos": (no_files, {}),
    "compare": (no_files, {}),
    "imagebart": (no_files, {}),
    "scales": (no_files, {}),
    "ablations": (no_files, {}),
    "orders": (no_files, {}),
    "multidimensional": (cifar10, {"validation": 10}),
    "cifar10": (cifar10, {"validation": 10}),
    "pixelcnn_pp": (cifar10, {"validation": 10}),
    "cifar10_cpu": (cifar10, {"validation": 10}),
    "cifar10_hour": (cifar10, {"validation": 10}),
    "tiny_imagenet_cpu": (kodak("tiny_imagenet"), {"validation": 4, "test": 4}),
    "photographs_cpu": (photographs("photographs", "--reduce", "4"), {}),
    "photographs_128_cpu": (photographs("photographs_128", "--size", "128"), {}),
    "mnist": (mnist, {}),
    "folder": (kodak("my_images"), {"validation": 4, "test": 4}),
    "imagenet32": (kodak("imagenet32"), {"validation": 4, "test": 4}),
    "imagenet64": (kodak("imagenet64"), {"validation": 4, "test": 4}),
    "imagenet128": (kodak("imagenet128"), {"validation": 4, "test": 4}),
    "imagenet256": (kodak("imagenet256"), {"validation": 4, "test": 4}),
    "celeba_hq256": (kodak("celeba_hq"), {"validation": 4, "test": 4}),
    "imagebart_ffhq": (kodak("ffhq"), {"validation": 4, "test": 4}),
    "imagebart_lsun": (kodak("lsun_churches"), {"validation": 4, "test": 4}),
    "imagebart_imagenet": (classes("imagenet256"), {"validation": 4, "test": 4, "num_classes": 2}),
}
"""How to fill sources/, and which counts suit so few images."""


def small(preset: str, data: dict[str, Any]) -> Params:
    raw = load_params(PRESETS / f"{preset}.yaml").model_dump(mode="json", by_alias=True, exclude_unset=True)
    raw["data"] |= {"limit": FEW, **data}
    for first_stage in raw.get("first_stages", {}).values():
        first_stage |= {"width": 4, "training": TRAINING | {"steps": 2, "batch_size": 2, "validate_every": 2}}
    for stage in raw["stages"].values():
        stage["model"] = stage["model"] | SMALL[stage["model"]["family"]]
        stage["training"] = TRAINING | {"steps": 2, "batch_size": 2, "validate_every": 2}
        stage["trials"] = [
            stage["training"] | {"clip_norm": float(each)} for each in range(1, 1 + len(stage.get("trials", [])))
        ]
    return Params.model_validate_json(json.dumps(raw))


def direct_nats(stage: Stage, model: Model, file: SliceFile) -> np.ndarray:
    """Add up what a stage's laws give the levels of the test images, slice by slice; a bound's, without its noise."""
    images = torch.arange(FEW["test"])
    slices, labels = file.slices("test", images), file.labels("test", images) if stage.plan.num_classes else None
    total = np.zeros(FEW["test"])
    with torch.inference_mode():
        for target in stage.targets:
            position = stage.positions(target, len(slices))
            levels = stage.target(slices, position)
            law = model(levels, stage.context(slices, position, labels))
            is_bound = isinstance(law, DequantisedMixture)
            scores = DiscretisedMixture.log_prob(law, levels) if is_bound else law.log_prob(levels)
            total -= scores.double().flatten(1).sum(1).numpy()
    return total


def test_no_preset_is_forgotten() -> None:
    assert {path.stem for path in PRESETS.glob("*.yaml")} == set(CASES)


@pytest.mark.parametrize("preset", CASES)
@pytest.mark.slow
def test_a_preset_runs_on_real_images(preset: str, tmp_path: Path) -> None:
    fill, data = CASES[preset]
    params = small(preset, data)
    (tmp_path / "sources").mkdir()
    fill(tmp_path / "sources")
    evaluated = {}
    for scale_factor, cuts in params.cuts.items():
        path = tmp_path / f"S{scale_factor}.h5"
        write_slices(params.data, scale_factor, cuts, tmp_path / "sources", path, progress=False)
    for name in params.first_stage_plans:
        pictures, output = tmp_path / "S1.h5", tmp_path / name
        train_stage(params, name, SliceFile(pictures), output, tmp_path / "runs", CPU)
        extract_codes(params, name, pictures, output / "checkpoint.safetensors", output, device="cpu")
    for name, plan in params.stage_plans.items():
        codes = params.stages[name].codes
        path = tmp_path / (f"{codes}/codes.h5" if codes else f"S{plan.scale_factor}.h5")
        measured, slices = open_slices(params, name, path)
        assert {split: slices.num_images(split) for split in FEW} == FEW
        train_stage(measured, name, slices, tmp_path / name, tmp_path / "runs", CPU)
        stage, model = load_trained(measured, name, slices.digest, tmp_path / name / "checkpoint.safetensors", CPU)
        nats = stage_nats(stage, model, slices, "test", CPU, batch_size=2)
        if plan.noise is not None:
            # What a scale is given is drawn; a toy with all draws enumerated is in test_diffusion.py.
            assert (nats > 0).all()
        elif params.stages[name].model.is_bound:
            # Its noise leaves the mean over so few images a little way below the law's, at most.
            assert nats.mean() > 0.98 * direct_nats(stage, model, slices).mean()
        else:
            np.testing.assert_allclose(nats, direct_nats(stage, model, slices), rtol=1e-4)
        kind = {
            "split": "test",
            "estimate": "bound" if params.is_bound(name) else "exact",
            "conditioning": "none",
            "dims": f"codes of {codes}" if codes else "sub-pixels",
        }
        figures = {"num_parameters": 1, "recipe_digest": name, **likelihood_metrics(nats, stage.image_dims)}
        evaluated[name] = (kind | figures, nats)
    for chain, section in params.chains.items():
        total = chain_metrics(chain, {name: evaluated[name] for name in section.stages})
        added = sum(evaluated[name][1].mean() for name in section.stages)
        dims = math.prod(params.grid(section.stages[0]).shape)
        assert total["bits_per_dim"] == pytest.approx(added / dims / math.log(2), rel=1e-12)
