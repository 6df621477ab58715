"""Damage inside a JPEG that Pillow decodes without a word: what is found, and that whole pictures are left alone."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from spn.config import FolderData, InputError
from spn.data.sources import open_source
from spn.data.sources.jpeg import scan_damage

PHOTO = Image.fromarray(load_sample_image("china.jpg"))
FLAT = Image.new("RGB", (512, 512), (120, 30, 40))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))
LINES = Image.fromarray(np.kron(np.indices((32, 32)).sum(0) % 2, np.full((8, 8), 255)).astype(np.uint8)).convert("RGB")


def encoded(picture: Image.Image, **options: object) -> bytes:
    content = io.BytesIO()
    picture.save(content, "JPEG", **options)
    return content.getvalue()


def zero_the_middle(content: bytes, size: int = 512) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(size) + content[middle + size :]


def put_a_marker(content: bytes) -> bytes:
    middle = content.index(b"\xff\x00", len(content) // 2)
    return content[:middle] + b"\xff\x01" + content[middle + 2 :]


def swap_restarts(content: bytes) -> bytes:
    first, second = (marker.start() for marker in list(re.finditer(rb"\xff[\xd0-\xd7]", content))[10:12])
    result = bytearray(content)
    result[first + 1], result[second + 1] = result[second + 1], result[first + 1]
    return bytes(result)


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], dict[str, object], str]] = {
    "zeroes": (zero_the_middle, {}, "32 zero bytes in a row in its data"),
    "zeroes under optimised tables": (zero_the_middle, {"optimize": True}, "32 zero bytes in a row in its data"),
    "a marker": (put_a_marker, {}, "marker 01 in its data"),
    "restarts": (swap_restarts, {"restart_marker_blocks": 8}, "restart markers out of order"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_picture_damaged_in_its_middle_is_refused(name: str, tmp_path: Path) -> None:
    damage, options, reason = DAMAGES[name]
    whole = encoded(PHOTO, **options)
    assert scan_damage(whole) is None
    damaged = damage(whole)
    (tmp_path / "pictures").mkdir()
    for index in range(3):
        (tmp_path / "pictures" / f"{index}.jpg").write_bytes(whole)
    (tmp_path / "pictures" / "damaged.jpg").write_bytes(damaged)
    section = {"source": "folder", "name": "pictures", "bits": 8, "size": 8, "channels": 3, "fit": "resize"}
    with pytest.raises(InputError, match=rf"got 1 of 4 .*: damaged\.jpg \({reason}\)$"):
        open_source(FolderData.model_validate({**section, "filter": "box", "validation": 1, "test": 1}), tmp_path)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("picture", [PHOTO, FLAT, NOISE, LINES], ids=["photo", "flat", "noise", "lines"])
@pytest.mark.parametrize(
    "options",
    [{}, {"optimize": True}, {"progressive": True}, {"restart_marker_rows": 1}, {"comment": bytes(100)}],
    ids=lambda options: next(iter(options), "plain"),
)
def test_whole_pictures_are_left_alone(picture: Image.Image, mode: str, options: dict[str, object]) -> None:
    for quality in (1, 30, 75, 95, 100):
        assert scan_damage(encoded(picture.convert(mode), quality=quality, **options)) is None


def test_what_follows_the_end_of_a_picture_is_its_own_affair() -> None:
    assert scan_damage(encoded(PHOTO) + bytes(1000) + b"\xff\xc5") is None
