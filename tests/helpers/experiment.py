"""A tiny experiment on real digits, for the tests that train, sample and run the workflow."""

import copy
import csv
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from spn.training.history import Row

MODEL = {
    "family": "spn",
    "width": 8,
    "heads": 2,
    "transformer_layers": 1,
    "pixelcnn_width": 8,
    "pixelcnn_layers": 2,
    "embedder_layers": 1,
    "dropout": 0.1,
}
BART = {"family": "imagebart", "width": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "residual": True}
TRAINING = {
    "steps": 6,
    "batch_size": 8,
    "optimiser": {"name": "adamw", "learning_rate": 0.01},
    "warmup_steps": 2,
    "schedule": "cosine",
    "clip_norm": 1.0,
    "ema_decay": 0.9,
    "validate_every": 3,
}


def tiny_params() -> dict[str, Any]:
    """Return a fresh params.yaml of three stages and two chains, as a dictionary."""
    stages = {
        "raster": {"scale_factor": 1, "slices": "all", "bits": [0, 5]},
        "high": {"scale_factor": 2, "slices": "all", "bits": [0, 2]},
        "low": {"scale_factor": 2, "slices": "all", "bits": [2, 5]},
    }
    return {
        "seed": 1,
        "data": {
            "source": "digits",
            "name": "digits",
            "bits": 5,
            "split_seed": 1,
            "validation": 20,
            "test": 20,
            "limit": {"train": 100, "validation": 12, "test": 10},
        },
        "stages": {
            name: stage | {"model": copy.deepcopy(MODEL), "training": copy.deepcopy(TRAINING)}
            for name, stage in stages.items()
        },
        "chains": {"raster": {"stages": ["raster"]}, "depth": {"stages": ["high", "low"]}},
        "sampling": {"num_images": 4, "seed": 1},
    }


def raster_params(data: dict[str, Any]) -> dict[str, Any]:
    """Return a fresh params.yaml of one raster chain over RGB images of a `data` section."""
    params = tiny_params()
    stage = params["stages"]["raster"] | {"bits": [0, data["bits"]]}
    stage["model"] |= {"width": 6, "pixelcnn_width": 6}
    return params | {"data": data, "stages": {"raster": stage}, "chains": {"raster": {"stages": ["raster"]}}}


def codes_params() -> dict[str, Any]:
    """Add a first stage, and a chain of two scales over its codes."""
    raw = tiny_params()
    raw["first_stages"] = {"vq": {"downsampling": 2, "codebook": 8, "code_width": 4, "width": 8, "training": TRAINING}}
    raw["schedules"] = {"even": {"name": "spaced", "scales": 2}}
    for scale in (2, 1):
        raw["stages"][f"codes{scale}"] = raw["stages"]["raster"] | {
            "codes": "vq",
            "bits": [0, 3],
            "diffusion": {"schedule": "even", "scale": scale},
            "model": copy.deepcopy(BART),
        }
    raw["chains"]["latent"] = {"stages": ["codes2", "codes1"]}
    return raw


def write_params(folder: Path, params: dict[str, Any]) -> Path:
    """Write `params` as folder/params.yaml."""
    path = folder / "params.yaml"
    with path.open("w") as file:
        YAML().dump(params, file)
    return path


def read_history(path: Path) -> list[Row]:
    """Read a history.csv; cells where nothing was measured are absent from their row."""
    with path.open(newline="") as file:
        return [
            {key: int(value) if key == "step" else float(value) for key, value in row.items() if value}
            for row in csv.DictReader(file)
        ]
