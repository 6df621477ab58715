"""What the tests of the data sources share: sections, random images, and real files where this machine has them."""

import json
import os
import struct
import zlib
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


def deep_rgb(height: int, width: int) -> dict[str, bytes]:
    """Make files of RGB with 16 bits a channel, of which Pillow drops 8 in silence: PNG, PPM (two kinds) and TIFF."""
    levels = np.random.default_rng(0).integers(0, 1 << 16, (height, width, 3), dtype=np.uint16)
    rows = levels.astype(">u2").reshape(height, -1).tobytes()
    lines = b"".join(b"\0" + each.astype(">u2").tobytes() for each in levels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0)
    png = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    size = f"{width} {height} 65535\n".encode()
    # Tags of one number each but for the three depths, which lie behind the directory, and then the pixels.
    depths = 8 + 2 + 9 * 12 + 4
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, depths), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, depths + 6), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(rows))]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *each) for each in tags)
    tiff = b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 0) + struct.pack("<3H", 16, 16, 16)
    planes = b"".join(each.tobytes() for each in np.moveaxis(levels.astype("<u2"), -1, 0))
    return {
        "deep_rgb_planes.tif": _planes(height, width, planes),
        "deep_rgb.png": b"\x89PNG\r\n\x1a\n" + png,
        "deep_rgb.ppm": b"P6 " + size + rows,
        "deep_rgb_plain.ppm": b"P3 " + size + " ".join(map(str, levels.flatten().tolist())).encode(),
        "deep_rgb.tif": tiff + levels.astype("<u2").tobytes(),
    }


def _planes(height: int, width: int, content: bytes) -> bytes:
    """Make a TIFF of three channels of 16 bits, stored one after the other."""
    each, extra = 2 * height * width, 8 + 2 + 10 * 12 + 4  # the numbers of three lie behind the directory, then pixels
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, extra), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 3, extra + 6), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 3, extra + 18), (284, 3, 1, 2)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    starts = [extra + 30 + place * each for place in range(3)]
    numbers = struct.pack("<3H", 16, 16, 16) + struct.pack("<3I", *starts) + struct.pack("<3I", each, each, each)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 0) + numbers + content
