"""CIFAR-10 in its official python files, and pickles that only look like them."""

import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from source_files import data_section, images_of, labels_of, positions, random_images, real_file

from spn.config import DataSection, InputError
from spn.data.layout import SPLITS
from spn.data.sources import open_source

FOLDER = "cifar-10-batches-py"
NAMES = [f"data_batch_{index}" for index in range(1, 6)] + ["test_batch"]
IMAGES = random_images(24, 32, 32, 3)
LABELS = [index * 7 % 10 for index in range(24)]


Contents = dict[str, bytes]
WriteFiles = Callable[[Path, Contents], None]
WritePickle = Callable[[np.ndarray, list[int]], bytes]


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def numpy_pickle(images: np.ndarray, labels: list[int]) -> bytes:
    """Pickle a batch as numpy does today."""
    names = [f"{label}.png".encode() for label in labels]
    batch = {b"batch_label": b"batch", b"labels": labels, b"data": planes(images), b"filenames": names}
    return pickle.dumps(batch, protocol=2)


def python2_pickle(images: np.ndarray, labels: list[int]) -> bytes:
    """Spell out a batch as Python 2 and the numpy of its time pickled the official files."""
    make = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    shape = b"K" + bytes([len(images)]) + b"M\x00\x0c\x86"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    content = planes(images).tobytes()
    state = b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(content)) + content + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + make + state + b"U\x06labels" + numbers + b"u."


def batches(write: WritePickle = numpy_pickle) -> Contents:
    parts = [slice(4 * index, 4 * index + 4) for index in range(6)]
    return {name: write(IMAGES[part], LABELS[part]) for name, part in zip(NAMES, parts, strict=True)}


def write_folder(root: Path, contents: Contents) -> None:
    (root / FOLDER).mkdir()
    for name, content in contents.items():
        (root / FOLDER / name).write_bytes(content)


def write_archive(root: Path, contents: Contents) -> None:
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def cifar(**keys: Any) -> DataSection:
    return data_section(**{"source": "cifar10", "name": "cifar10", "bits": 8, "validation": 5} | keys)


@pytest.mark.parametrize("write_files", [write_folder, write_archive])
@pytest.mark.parametrize("write_pickle", [numpy_pickle, python2_pickle])
def test_images_keep_their_order_and_labels(tmp_path: Path, write_files: WriteFiles, write_pickle: WritePickle) -> None:
    write_files(tmp_path, batches(write_pickle))
    source = open_source(cifar(), tmp_path)
    assert np.array_equal(images_of(source, "test"), IMAGES[20:])
    assert labels_of(source, "test") == LABELS[20:]
    train = positions(images_of(source, "train"), IMAGES)
    assert train == sorted(train)
    assert sorted(train + positions(images_of(source, "validation"), IMAGES)) == list(range(20))
    assert labels_of(source, "train") == [LABELS[place] for place in train]


def test_the_order_of_an_archives_members_means_nothing(tmp_path: Path) -> None:
    write_archive(tmp_path, dict(reversed(batches().items())))
    assert np.array_equal(images_of(open_source(cifar(), tmp_path), "test"), IMAGES[20:])
    assert positions(images_of(open_source(cifar(validation=1), tmp_path), "train"), IMAGES)[0] < 2


class Hostile:
    """Pickles to a call of a function, as an attacker would have it."""

    def __init__(self, function: Callable[..., object], *arguments: str) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("write_files", [write_folder, write_archive])
def test_nothing_is_executed(tmp_path: Path, write_files: WriteFiles, protocol: int) -> None:
    marker = tmp_path / "executed"
    hostile = pickle.dumps({b"data": Hostile(os.system, f"touch {marker}")}, protocol=protocol)
    write_files(tmp_path, batches() | {"data_batch_3": hostile})
    with pytest.raises(InputError, match=r"data_batch_3: .* a pickle that names posix\.system$"):
        open_source(cifar(), tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "function", [eval, getattr, np.load, np.frombuffer, np.ones, pickle.loads, subprocess.Popen, os._exit, print]
)
def test_no_other_name_is_admitted(tmp_path: Path, function: Callable[..., object]) -> None:
    write_folder(tmp_path, batches() | {"test_batch": pickle.dumps(Hostile(function, "1"), protocol=2)})
    with pytest.raises(InputError, match=r"test_batch: .* a pickle that names \S+$"):
        open_source(cifar(), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps([1, 2], protocol=2),
        pickle.dumps({b"labels": [1]}, protocol=2),
        pickle.dumps({b"data": b"", b"labels": []}, protocol=2),
        numpy_pickle(IMAGES[:4], LABELS[:4])[:-100],
        numpy_pickle(IMAGES[:4], LABELS[:3]),
        numpy_pickle(IMAGES[:4], [1, 2, 3, 10]),
        numpy_pickle(IMAGES[:4], [1, 2, 3, -1]),
        numpy_pickle(IMAGES[:4].astype(np.int16), LABELS[:4]),
        numpy_pickle(IMAGES[:0], []),
        pickle.dumps({b"data": planes(IMAGES[:4])[:, 1:], b"labels": LABELS[:4]}, protocol=2),
        pickle.dumps({b"data": np.asfortranarray(planes(IMAGES[:4])), b"labels": LABELS[:4]}, protocol=2),
        pickle.dumps({b"data": planes(IMAGES[:4]), b"labels": np.array(LABELS[:4])}, protocol=2),
    ],
)
def test_what_is_no_batch_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    write_folder(tmp_path, batches() | {"data_batch_5": content})
    with pytest.raises(InputError, match=rf"^{tmp_path}/{FOLDER}/data_batch_5: expected [^\n]*$"):
        open_source(cifar(), tmp_path)


@pytest.mark.parametrize("content", [b"\x80\x02Nr\xff\xff\xff\x00.", b"p99999999\n.", b"}" * 300_000 + b"."])
def test_a_few_bytes_cannot_take_gigabytes(tmp_path: Path, content: bytes) -> None:
    write_folder(tmp_path, batches() | {"data_batch_1": content})
    with pytest.raises(InputError, match=r"data_batch_1: .* a pickle that takes too much memory$"):
        open_source(cifar(), tmp_path)


@pytest.mark.parametrize("write_files", [write_folder, write_archive])
def test_a_missing_batch_is_named(tmp_path: Path, write_files: WriteFiles) -> None:
    contents = batches()
    del contents["data_batch_4"]
    write_files(tmp_path, contents)
    with pytest.raises(InputError, match="expected the official batch data_batch_4, got none"):
        open_source(cifar(), tmp_path)


def test_links_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(batches()["test_batch"])
    contents = batches()
    del contents["test_batch"]
    write_archive(tmp_path, contents)
    archive = tmp_path / "cifar-10-python.tar.gz"
    unpacked = tmp_path / "plain.tar"
    with tarfile.open(archive) as packed, tarfile.open(unpacked, "w") as tar:
        for member in packed:
            tar.addfile(member, packed.extractfile(member))
        link = tarfile.TarInfo(f"{FOLDER}/test_batch")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(link)
    archive.unlink()
    with tarfile.open(unpacked) as tar, tarfile.open(archive, "w:gz") as packed:
        for member in tar:
            packed.addfile(member, tar.extractfile(member) if member.isreg() else None)
    with pytest.raises(InputError, match="expected the official batch test_batch, got none"):
        open_source(cifar(), tmp_path)


@pytest.mark.parametrize("keep", [40, 5000])
def test_a_truncated_archive_is_named(tmp_path: Path, keep: int) -> None:
    write_archive(tmp_path, batches())
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(InputError, match=rf"^{archive}: expected an intact tar\.gz archive"):
        open_source(cifar(), tmp_path)


def test_missing_files_are_named_with_the_command_that_gets_them(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        open_source(cifar(), tmp_path)
    archive = tmp_path / "cifar-10-python.tar.gz"
    assert str(caught.value).startswith(f"{archive}: expected the official CIFAR-10 archive, or unpacked as ")
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert str(caught.value).endswith(f"get it by: dvc import-url {url} {archive}")


def test_a_test_count_is_no_key_of_the_section() -> None:
    with pytest.raises(ValueError, match="test"):
        cifar(test=3)


@pytest.mark.slow
def test_real_cifar10(tmp_path: Path) -> None:
    script = real_file("unpack_cifar10.py")
    subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True)
    limit = {"train": 300, "validation": 20, "test": 200}
    source = open_source(cifar(validation=5000, limit=limit), tmp_path)
    assert source.release == "CIFAR-10, official python files, 49927 train and 9980 test images"
    assert {split: source.count(split) for split in SPLITS} == limit
    grid = np.asarray(Image.open(real_file("cifar10/test_batch.webp")).convert("RGB"))
    tiles = grid.reshape(100, 32, 100, 32, 3).transpose(0, 2, 1, 3, 4).reshape(10_000, 32, 32, 3)
    table = np.load(real_file("cifar10/labels_valid.npz"))
    valid = table["valid"][50_000:]
    official = {
        tile.tobytes(): label for tile, label in zip(tiles[valid], table["labels"][50_000:][valid], strict=True)
    }
    assert labels_of(source, "test") == [official[image.tobytes()] for image in images_of(source, "test")]
