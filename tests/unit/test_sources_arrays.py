"""`.npy` and `.npz` arrays, as the down-sampled ImageNet releases use them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from source_files import data_section, images_of, labels_of, positions, random_images, real_file

from spn.config import DataSection, InputError
from spn.data.layout import SPLITS
from spn.data.sources import Source, open_source

TRAIN = random_images(20, 8, 8, 3, seed=1)
VAL = random_images(6, 8, 8, 3, seed=2)


def arrays(**keys: Any) -> DataSection:
    section = {"source": "arrays", "name": "small", "bits": 8, "size": 8, "channels": 3, "release": "a release"}
    return data_section(**section | {"validation": 4} | keys)


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "small"
    path.mkdir()
    return path


def places_of_train(source: Source) -> tuple[list[int], list[int]]:
    return positions(images_of(source, "train"), TRAIN), positions(images_of(source, "validation"), TRAIN)


def assert_all_there(source: Source) -> None:
    train, validation = places_of_train(source)
    assert (len(train), len(validation)) == (16, 4)
    assert train == sorted(train)
    assert sorted(train + validation) == list(range(20))
    assert np.array_equal(images_of(source, "test"), VAL)


@pytest.mark.parametrize("compressed", [False, True])
def test_the_official_batches(folder: Path, compressed: bool) -> None:
    save = np.savez_compressed if compressed else np.savez
    for index in range(10):
        part = slice(2 * index, 2 * index + 2)
        save(folder / f"train_data_batch_{index + 1}.npz", data=planes(TRAIN[part]), labels=[index + 1] * 2, mean=0.5)
    save(folder / "val_data.npz", data=planes(VAL), labels=np.arange(1, 7))
    source = open_source(arrays(), folder.parent)
    assert_all_there(source)
    assert labels_of(source, "test") == [0, 1, 2, 3, 4, 5]
    assert labels_of(source, "train") == [place // 2 for place in places_of_train(source)[0]]
    assert source.release == "a release"


@pytest.mark.parametrize("layout", [planes, np.asarray])
def test_npy_without_labels(folder: Path, layout: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(folder / "train_32x32.npy", layout(TRAIN))
    np.save(folder / "valid_32x32.npy", layout(VAL))
    source = open_source(arrays(), folder.parent)
    assert_all_there(source)
    assert not source.labelled("train")
    assert set(labels_of(source, "test")) == {None}


def test_with_a_test_file_the_val_file_is_the_validation_split(folder: Path) -> None:
    for name, images in {"train": TRAIN, "validation": VAL, "test": VAL[::-1]}.items():
        np.save(folder / f"{name}.npy", images)
    source = open_source(arrays(validation=None), folder.parent)
    assert [source.count(split) for split in SPLITS] == [20, 6, 6]
    assert np.array_equal(images_of(source, "validation"), VAL)
    with pytest.raises(InputError, match=r"data\.validation: expected no count"):
        open_source(arrays(), folder.parent)


def test_without_a_val_or_test_file_test_images_are_drawn(folder: Path) -> None:
    np.save(folder / "train.npy", TRAIN)
    source = open_source(arrays(test=5), folder.parent)
    assert [source.count(split) for split in SPLITS] == [11, 4, 5]
    with pytest.raises(InputError, match=r"data\.test: expected a count"):
        open_source(arrays(), folder.parent)


def test_labels_below_the_first_are_refused(folder: Path) -> None:
    np.savez(folder / "train.npz", data=planes(TRAIN), labels=np.arange(20))
    np.savez(folder / "val.npz", data=planes(VAL), labels=np.arange(6))
    with pytest.raises(InputError, match=r"data\.first_label: expected the smallest label of .*train\.npz, 0, got 1"):
        open_source(arrays(), folder.parent)
    assert labels_of(open_source(arrays(first_label=0), folder.parent), "test") == [0, 1, 2, 3, 4, 5]


class Hostile:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return pytest.fail, ("a pickle in an array was run",)


@pytest.mark.parametrize("save", [np.save, lambda path, array: np.savez(path, data=array)])
def test_pickled_objects_are_never_loaded(folder: Path, save: Callable[[Path, np.ndarray], None]) -> None:
    save(folder / f"train.{'npy' if save is np.save else 'npz'}", np.array([Hostile()], dtype=object))
    with pytest.raises(InputError, match=rf"^{folder}/train\.np"):
        open_source(arrays(), folder.parent)


def test_pickled_labels_are_never_loaded(folder: Path) -> None:
    np.savez(folder / "train.npz", data=planes(TRAIN), labels=np.array([Hostile()] * 20, dtype=object))
    with pytest.raises(InputError, match=rf"^{folder}/train\.npz: expected an array labels"):
        open_source(arrays(), folder.parent)


def npy_that_states(shape: tuple[int, ...], content: bytes = b"") -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


@pytest.mark.parametrize(
    "content", [b"", b"no array", npy_that_states((10**12, 192)), npy_that_states((2, 192), bytes(383))]
)
def test_damaged_files_are_refused_by_name(folder: Path, content: bytes) -> None:
    (folder / "train.npy").write_bytes(content)
    with pytest.raises(InputError, match=rf"^{folder}/train\.npy: expected [^\n]*$"):
        open_source(arrays(), folder.parent)


def test_a_truncated_npz_is_refused_by_name(folder: Path) -> None:
    np.savez(folder / "train.npz", data=planes(TRAIN))
    content = (folder / "train.npz").read_bytes()
    (folder / "train.npz").write_bytes(content[:-500])
    with pytest.raises(InputError, match=rf"^{folder}/train\.npz: expected a numpy array data"):
        open_source(arrays(), folder.parent)


def test_damaged_content_of_an_npz_is_refused_by_name(folder: Path) -> None:
    np.savez(folder / "train.npz", data=planes(random_images(300, 8, 8, 3)))
    content = bytearray((folder / "train.npz").read_bytes())
    content[30_000] ^= 255
    (folder / "train.npz").write_bytes(content)
    source = open_source(arrays(test=2), folder.parent)
    with pytest.raises(InputError, match=rf"^{folder}/train\.npz: expected an intact file"):
        [images_of(source, split) for split in SPLITS]


@pytest.mark.parametrize(
    "array", [TRAIN.astype(np.float32), TRAIN[:, 1:], TRAIN[..., :1], planes(TRAIN)[:, 1:], np.asfortranarray(TRAIN)]
)
def test_arrays_of_another_kind_are_refused(folder: Path, array: np.ndarray) -> None:
    np.save(folder / "train.npy", array)
    with pytest.raises(InputError, match=rf"^{folder}/train\.npy: expected"):
        open_source(arrays(), folder.parent)


def test_an_npz_without_data_is_refused(folder: Path) -> None:
    np.savez(folder / "train.npz", images=TRAIN)
    with pytest.raises(InputError, match=rf"^{folder}/train\.npz: expected a numpy array data"):
        open_source(arrays(), folder.parent)


def test_a_file_of_no_split_is_refused(folder: Path) -> None:
    np.save(folder / "train.npy", TRAIN)
    np.save(folder / "mean.npy", TRAIN[0])
    with pytest.raises(InputError, match=r"mean\.npy: expected a name that starts with train, val or test"):
        open_source(arrays(), folder.parent)


def test_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "small" / "train.npz"
    with pytest.raises(InputError, match=rf"^{path}: expected .* mkdir -p {path.parent} && dvc import-url URL {path}$"):
        open_source(arrays(), tmp_path)


def test_real_pictures_as_an_imagenet_release(folder: Path) -> None:
    grid = np.asarray(Image.open(real_file("imagenet-sample/imagenet_sample_1000_64x64.png")).convert("RGB"))
    tiles = grid.reshape(20, 64, 50, 64, 3).transpose(0, 2, 1, 3, 4).reshape(1000, 64, 64, 3)
    for index, part in enumerate(np.split(tiles[:800], 4)):
        np.savez(folder / f"train_data_batch_{index + 1}.npz", data=planes(part), labels=np.arange(1, 201))
    np.savez(folder / "val_data.npz", data=planes(tiles[800:]), labels=np.arange(801, 1001))
    source = open_source(arrays(size=64, validation=100, limit={"train": 90}), folder.parent)
    assert np.array_equal(images_of(source, "test"), tiles[800:])
    assert labels_of(source, "test") == list(range(800, 1000))
    places = positions(images_of(source, "train"), tiles)
    assert labels_of(source, "train") == [place % 200 for place in places]


def test_files_of_a_split_have_labels_all_or_none(folder: Path) -> None:
    np.savez(folder / "train_1.npz", data=TRAIN, labels=np.ones(20, np.int64))
    np.save(folder / "train_2.npy", TRAIN)
    np.save(folder / "val.npy", VAL)
    with pytest.raises(InputError, match=r"train_2.npy: expected labels, as train_1.npz of the same split has, found"):
        open_source(arrays(), folder.parent)
