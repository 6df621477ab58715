"""MNIST in its idx files."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_files import data_section, images_of, labels_of, positions, random_images, real_file

from spn.config import DataSection, InputError
from spn.data.layout import SPLITS
from spn.data.sources import open_source

TRAIN = random_images(20, 28, 28, seed=1)
TEST = random_images(6, 28, 28, seed=2)


def write_part(folder: Path, part: str, images: np.ndarray, labels: list[int]) -> None:
    header = struct.pack(">4I", 2051, *images.shape)
    (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
    content = struct.pack(">2I", 2049, len(labels)) + bytes(labels)
    (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "mnist"
    folder.mkdir()
    write_part(folder, "train", TRAIN, [index % 10 for index in range(20)])
    write_part(folder, "t10k", TEST, [9, 8, 7, 6, 5, 4])
    return tmp_path


def mnist(**keys: Any) -> DataSection:
    return data_section(**{"source": "mnist", "name": "mnist", "bits": 8, "validation": 5} | keys)


def test_images_keep_their_order_and_labels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spn.data.sources.mnist.BLOCK", 7)
    source = open_source(mnist(), root)
    assert np.array_equal(images_of(source, "test")[..., 0], TEST)
    assert labels_of(source, "test") == [9, 8, 7, 6, 5, 4]
    train = positions(images_of(source, "train"), TRAIN)
    validation = positions(images_of(source, "validation"), TRAIN)
    assert train == sorted(train)
    assert sorted(train + validation) == list(range(20))
    assert labels_of(source, "train") == [place % 10 for place in train]


def test_a_missing_file_is_named_with_the_command_that_gets_it(root: Path) -> None:
    missing = root / "mnist" / "t10k-labels-idx1-ubyte.gz"
    missing.unlink()
    with pytest.raises(InputError) as caught:
        open_source(mnist(), root)
    assert str(caught.value).startswith(f"{missing}: expected an official MNIST file")
    url = "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-labels-idx1-ubyte.gz"
    assert str(caught.value).endswith(f": dvc import-url {url} {missing}")


def test_a_missing_folder_is_to_be_made_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"get it by: mkdir -p {tmp_path}/mnist && dvc import-url https"):
        open_source(mnist(), tmp_path)


def test_a_truncated_file_is_named(root: Path) -> None:
    path = root / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(InputError, match=str(path)):
        images_of(open_source(mnist(), root), "train")


def test_fewer_pixels_than_announced_are_refused(root: Path) -> None:
    path = root / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    with pytest.raises(InputError, match=rf"{path}: expected 4704 more bytes, got 4703"):
        images_of(open_source(mnist(), root), "test")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t10k-images-idx3-ubyte.gz", struct.pack(">4I", 2049, 6, 28, 28), "magic number 2051, got 2049"),
        ("t10k-images-idx3-ubyte.gz", struct.pack(">4I", 2051, 6, 32, 32), "28x28 images, got 32x32"),
        ("t10k-images-idx3-ubyte.gz", struct.pack(">4I", 2051, 7, 28, 28), "as many images as .* labels, 6, got 7"),
        ("t10k-labels-idx1-ubyte.gz", struct.pack(">2I", 2049, 6) + bytes([1, 2, 3, 4, 5, 10]), "0 to 9, got 10"),
        ("t10k-labels-idx1-ubyte.gz", struct.pack(">2I", 2049, 1 << 31), "at most 60000 images, got 2147483648"),
    ],
)
def test_files_of_another_kind_are_refused(root: Path, name: str, content: bytes, message: str) -> None:
    (root / "mnist" / name).write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match=message):
        open_source(mnist(), root)


def test_the_digest_is_that_of_the_bytes(root: Path) -> None:
    digest = open_source(mnist(), root).digest
    assert open_source(mnist(validation=6), root).digest == digest
    write_part(root / "mnist", "t10k", TEST[::-1], [9, 8, 7, 6, 5, 4])
    assert open_source(mnist(), root).digest != digest


def test_real_mnist(tmp_path: Path) -> None:
    folder = real_file("mnist")
    limit = {"train": 60, "validation": 10, "test": 300}
    source = open_source(mnist(validation=5000, limit=limit), folder.parent)
    assert source.release == "MNIST, official idx files, 60000 train and 10000 test images"
    assert {split: source.count(split) for split in SPLITS} == limit
    labels = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    pixels = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    everything = np.frombuffer(pixels, dtype=np.uint8).reshape(10_000, 28, 28, 1)
    places = positions(images_of(source, "test"), everything)
    assert labels_of(source, "test") == [labels[place] for place in places]
    assert max(places) > 5000
