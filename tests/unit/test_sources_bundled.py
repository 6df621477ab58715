"""The sources that need no files: scikit-learn's digits and photographs."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.utils import Bunch
from source_files import data_section, images_of, labels_of

from spn.config import InputError, split_counts
from spn.data.layout import SPLITS
from spn.data.sources import open_source

DIGITS = {"source": "digits", "name": "digits", "bits": 5, "split_seed": 1, "validation": 180, "test": 360}
PHOTOS = {
    "source": "photos",
    "name": "photos",
    "bits": 8,
    "size": 16,
    "stride": 8,
    "validation": 0.1,
    "test": 0.2,
}


def test_digits_keep_every_level_and_label(tmp_path: Path) -> None:
    source = open_source(data_section(**DIGITS), tmp_path)
    assert {split: source.count(split) for split in SPLITS} == {"train": 1257, "validation": 180, "test": 360}
    bundle = load_digits()
    expected = Counter(
        (image.astype(np.uint8).tobytes(), label) for image, label in zip(bundle.images, bundle.target, strict=True)
    )
    actual = Counter((image.tobytes(), label) for split in SPLITS for image, label in source.stream(split))
    assert actual == expected
    assert images_of(source, "train").shape == (1257, 8, 8, 1)


def test_the_seed_alone_decides_the_split(tmp_path: Path) -> None:
    first = images_of(open_source(data_section(**DIGITS), tmp_path), "test")
    again = images_of(open_source(data_section(**DIGITS), tmp_path), "test")
    other = images_of(open_source(data_section(**DIGITS | {"split_seed": 2}), tmp_path), "test")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_limit_keeps_images_of_the_same_split_in_their_order(tmp_path: Path) -> None:
    whole = images_of(open_source(data_section(**DIGITS), tmp_path), "train")
    limited = open_source(data_section(**DIGITS, limit={"train": 50, "test": 7}), tmp_path)
    assert {split: limited.count(split) for split in SPLITS} == {"train": 50, "validation": 180, "test": 7}
    remaining = iter(image.tobytes() for image in whole)
    assert all(image.tobytes() in remaining for image in images_of(limited, "train"))


def test_more_images_than_there_are_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.test: expected fewer than the 797 images left .*, got 797"):
        open_source(data_section(**DIGITS | {"validation": 1000, "test": 797}), tmp_path)


@pytest.mark.parametrize("keys", [DIGITS, PHOTOS, PHOTOS | {"size": 31, "stride": 7}])
def test_images_are_counted_as_the_configuration_counts_them(keys: dict[str, Any], tmp_path: Path) -> None:
    section = data_section(**keys, limit={"validation": 11})
    source = open_source(section, tmp_path)
    assert {split: source.count(split) for split in SPLITS} == split_counts(section)


@pytest.fixture
def numbered_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two photographs in which every pixel is a number of its own, written in base 256."""
    numbers = np.arange(2 * 60 * 100).reshape(2, 60, 100, 1)
    photos = (numbers // np.array([65536, 256, 1]) % 256).astype(np.uint8)
    monkeypatch.setattr("sklearn.datasets.load_sample_images", lambda: Bunch(images=list(photos)))


def pixel_numbers(images: np.ndarray) -> np.ndarray:
    return images.astype(int) @ np.array([65536, 256, 1])


@pytest.mark.usefixtures("numbered_photos")
def test_crops_of_different_splits_share_no_pixel(tmp_path: Path) -> None:
    source = open_source(data_section(**PHOTOS | {"validation": 0.2, "test": 0.25}), tmp_path)
    seen = [set(pixel_numbers(images_of(source, split)).ravel()) for split in SPLITS]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


@pytest.mark.usefixtures("numbered_photos")
def test_crops_are_squares_of_one_photograph_on_the_grid(tmp_path: Path) -> None:
    source = open_source(data_section(**PHOTOS | {"validation": 0.2, "test": 0.25}), tmp_path)
    crops = pixel_numbers(images_of(source, "train"))
    corners = crops[:, 0, 0]
    rows, columns = np.mgrid[:16, :16]
    assert np.array_equal(crops, corners[:, None, None] + 100 * rows + columns)
    # Bands are 55 pixels wide and 60 high: 5 crops side by side, 6 above each other, in two photographs.
    expected = [6000 * photo + 800 * i + 8 * j for photo in range(2) for i in range(6) for j in range(5)]
    assert corners.tolist() == expected


def test_fewer_bits_are_the_most_significant(tmp_path: Path) -> None:
    full = images_of(open_source(data_section(**PHOTOS), tmp_path), "test")
    coarse = images_of(open_source(data_section(**PHOTOS | {"bits": 3}), tmp_path), "test")
    assert coarse.max() > 3
    assert np.array_equal(coarse, full // 32)


def test_photographs_have_no_labels(tmp_path: Path) -> None:
    source = open_source(data_section(**PHOTOS), tmp_path)
    assert not source.labelled("test")
    assert set(labels_of(source, "test")) == {None}


def test_a_band_narrower_than_a_crop_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.size: expected at most the validation band of 427x6 .*, got 16"):
        open_source(data_section(**PHOTOS | {"validation": 0.01}), tmp_path)
