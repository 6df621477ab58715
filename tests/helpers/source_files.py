"""What the tests of the data sources share: sections, random images, and real files where this machine has them."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from spn.config import DataSection
from spn.data.layout import Split
from spn.data.sources import Source

REAL_DATA = Path(os.environ.get("SPN_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def real_file(name: str) -> Path:
    """Return a real data file or folder; skip the test where there is none."""
    path = REAL_DATA / name
    if not path.exists():
        pytest.skip(f"data files are not present on this machine: {name}")
    return path


def data_section(**keys: Any) -> DataSection:
    """Validate a `data` section as params.yaml would have it."""
    return TypeAdapter(DataSection).validate_json(json.dumps(keys))


def random_images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Draw uint8 images; any two differ."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def images_of(source: Source, split: Split) -> np.ndarray:
    """Collect the images of a split."""
    return np.stack([image for image, _ in source.stream(split)])


def labels_of(source: Source, split: Split) -> list[int | None]:
    """Collect the labels of a split."""
    return [label for _, label in source.stream(split)]


def positions(images: np.ndarray, among: np.ndarray) -> list[int]:
    """Find each image's position among others, of which no two are equal."""
    places = {image.tobytes(): place for place, image in enumerate(among)}
    assert len(places) == len(among)
    return [places[image.tobytes()] for image in images]
