"""Every result of a small experiment, written without training: sound notes, and content that nobody looks at."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from experiment import tiny_params, write_params

from spn.checkpoint import save_tensors
from spn.config import Params, load_params
from spn.files import write_json
from spn.notes import Notes, seal_block, weights_digest
from spn.provenance import (
    Recipe,
    evaluation_recipe,
    export_recipe,
    record_recipe,
    report_recipe,
    sampling_recipe,
    slices_recipe,
    source_state,
    stage_recipe,
    summary_recipe,
)

DIGEST = "2" * 64
"""Of the images, which are the same in both files of slices."""
SOURCE_DIGEST = "5" * 64
HANDLE = {"uri": "sqlite:///mlflow.db", "id": "1", "token": "7" * 16}

WHOLE, SPLIT = "data/made/S1.h5", "data/made/S2.h5"


class Made(NamedTuple):
    """What a result must be made from, what is written beside it, and its recipe."""

    needs: set[str]
    others: tuple[str, ...]
    recipe: Callable[[Params], Recipe]


def _stage(stage: str, slices: str) -> dict[str, Made]:
    folder = f"results/stages/{stage}"
    weights = f"{folder}/checkpoint.safetensors"
    return {
        weights: Made({slices}, ("history.csv",), lambda params: stage_recipe(params, stage, DIGEST)),
        f"{folder}/metrics.json": Made(
            {slices, weights}, ("nats.npy",), lambda params: evaluation_recipe(params, stage, DIGEST)
        ),
    }


def _export(chain: str, *stages: str) -> dict[str, Made]:
    weights = {f"results/stages/{stage}/checkpoint.safetensors" for stage in stages}
    needs = {f"results/chains/{chain}/metrics.json"} | weights
    made = Made(needs, (), lambda params: export_recipe(params, chain, DIGEST))
    return {f"results/chains/{chain}/model.safetensors": made}


MADE: dict[str, Made] = {
    WHOLE: Made(set(), (), lambda params: slices_recipe(params, 1)),
    SPLIT: Made(set(), (), lambda params: slices_recipe(params, 2)),
    **_stage("raster", WHOLE),
    **_stage("high", SPLIT),
    **_stage("low", SPLIT),
    "results/chains/raster/raster/samples.h5": Made(
        {"results/stages/raster/checkpoint.safetensors"},
        ("samples.png",),
        lambda params: sampling_recipe(params, "raster", "raster", DIGEST),
    ),
    "results/chains/raster/metrics.json": Made(
        {"results/stages/raster/metrics.json"}, (), lambda params: summary_recipe(params, "raster", DIGEST)
    ),
    **_export("raster", "raster"),
    "mlflow/chains/raster.json": Made(
        {
            "results/chains/raster/metrics.json",
            "results/chains/raster/model.safetensors",
            "results/chains/raster/raster/samples.h5",
        },
        (),
        lambda params: record_recipe(params, "raster", DIGEST, HANDLE),
    ),
    "results/chains/depth/high/samples.h5": Made(
        {"results/stages/high/checkpoint.safetensors"},
        ("samples.png",),
        lambda params: sampling_recipe(params, "depth", "high", DIGEST),
    ),
    "results/chains/depth/low/samples.h5": Made(
        {"results/stages/low/checkpoint.safetensors", "results/chains/depth/high/samples.h5"},
        ("samples.png",),
        lambda params: sampling_recipe(params, "depth", "low", DIGEST),
    ),
    "results/chains/depth/metrics.json": Made(
        {"results/stages/high/metrics.json", "results/stages/low/metrics.json"},
        (),
        lambda params: summary_recipe(params, "depth", DIGEST),
    ),
    **_export("depth", "high", "low"),
    "mlflow/chains/depth.json": Made(
        {
            "results/chains/depth/metrics.json",
            "results/chains/depth/model.safetensors",
            "results/chains/depth/high/samples.h5",
            "results/chains/depth/low/samples.h5",
        },
        (),
        lambda params: record_recipe(params, "depth", DIGEST, HANDLE),
    ),
    "results/plots/report.json": Made(
        {
            "results/chains/raster/metrics.json",
            "results/chains/depth/metrics.json",
            "results/stages/raster/metrics.json",
            "results/stages/high/metrics.json",
            "results/stages/low/metrics.json",
            "results/stages/raster/checkpoint.safetensors",
            "results/stages/high/checkpoint.safetensors",
            "results/stages/low/checkpoint.safetensors",
            "results/chains/raster/raster/samples.h5",
            "results/chains/depth/high/samples.h5",
            "results/chains/depth/low/samples.h5",
        },
        (
            "../metrics.json",
            "bits_per_dim.csv",
            "bits_per_dim.png",
            "curves.png",
            "real.png",
            "gallery.html",
            "curves/raster.csv",
            "curves/high.csv",
            "curves/low.csv",
        ),
        lambda params: report_recipe(params, DIGEST),
    ),
}
"""Every result, by its path, in the order in which they are made."""


def files_of(path: str) -> list[Path]:
    """Name all files of a result, its own first."""
    beside = [Path(path).parent / name for name in MADE[path].others]
    return [Path(path), *(Path("results/metrics.json") if ".." in file.parts else file for file in beside)]


def after(*paths: str) -> set[str]:
    """Name what is made from some results, directly or not, and these themselves."""
    found = {*paths}
    for path, made in MADE.items():
        if made.needs & found:
            found.add(path)
    return found


def made_params(**data: Any) -> dict[str, Any]:
    """Return the parameters of the experiment, whose source is one file of arrays."""
    section = {"source": "arrays", "name": "made", "channels": 1, "size": 8, "bits": 5, "validation": 2, "test": 2}
    return tiny_params() | {"data": section | {"release": "made here"} | data}


def write_notes(path: str, notes: Notes) -> None:
    """Write a result that says `notes` of itself."""
    match (file := Path(path)).suffix:
        case ".h5":
            file.write_bytes(seal_block({"notes": notes}))
        case ".safetensors":
            save_tensors(file, {"weight": torch.zeros(1)}, notes)
        case _:
            write_json(file, notes)


def notes_of(params: Params, path: str) -> Notes:
    """Return the notes that a result must have, given the files beside it."""
    notes: Notes = {"recipe": MADE[path].recipe(params)}
    if path in (WHOLE, SPLIT):
        state = source_state(params.data, Path("sources"))
        return notes | {"digest": DIGEST, "source_digest": SOURCE_DIGEST, "source_state": state}
    files = zip(MADE[path].others, files_of(path)[1:], strict=True)
    digests = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files}
    trained = {Path(each).parent.name: weights_digest(Path(each)) for each in MADE if each in checkpoints_before(path)}
    return notes | ({"trained": trained} if trained else {}) | ({"files": digests} if digests else {})


def checkpoints_before(path: str) -> set[str]:
    """Name the checkpoints that a result is made from, directly or not."""
    return {each for each in MADE if path in after(each) - {each} and each.endswith("checkpoint.safetensors")}


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The parameters of an experiment of which everything is made, in the working directory."""
    monkeypatch.chdir(tmp_path)
    # Digests of code have tests of their own, and take a second.
    monkeypatch.setattr("spn.provenance.recipes.verb_digest", lambda verb, section=None: f"code of {verb}")
    Path("sources/made").mkdir(parents=True)
    Path("sources/made/train.npy").write_bytes(b"images")
    params = load_params(write_params(tmp_path, made_params()))
    for path in MADE:
        for file in files_of(path):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"content of {file}")
        write_notes(path, notes_of(params, path))
    write_json(Path("mlflow/experiment.json"), HANDLE)
    Path("mlflow.db").touch()
    return params
