"""Preprocessing: what is in the HDF5 file is what the source holds, written in one go or not at all."""

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from source_files import data_section, images_of, labels_of, random_images, real_file

from spn.config import DataSection, InputError
from spn.data.hdf5 import SliceFile
from spn.data.layout import SPLITS, Split
from spn.data.preprocess import write_slices
from spn.data.sources import open_source
from spn.image import join_slices

Shape = tuple[int, int, int]
DIGITS = {"source": "digits", "name": "digits", "bits": 5, "split_seed": 3, "validation": 20, "test": 30}


def arrays(shape: Shape, **keys: Any) -> DataSection:
    section = {"source": "arrays", "name": "made", "bits": 8, "size": shape[0], "channels": shape[2]}
    return data_section(**section | {"release": "made here"} | keys)


def write_arrays(root: Path, **splits: np.ndarray) -> None:
    (root / "made").mkdir(parents=True)
    for split, images in splits.items():
        np.savez(root / "made" / f"{split}.npz", data=images, labels=1 + np.arange(len(images)) % 10)


def all_of(file: SliceFile, split: Split) -> np.ndarray:
    return np.arange(file.num_images(split))


def assert_holds(path: Path, section: DataSection, root: Path) -> None:
    """Compare the file with the source, image by image."""
    file, source = SliceFile(path), open_source(section, root)
    for split in SPLITS:
        assert file.num_images(split) == source.count(split)
        images = join_slices(file.slices(split, all_of(file, split)))
        assert np.array_equal(images.numpy(), images_of(source, split))
        labels = file.labels(split, all_of(file, split))
        expected = labels_of(source, split)
        assert ([None] * len(expected) if labels is None else labels.tolist()) == expected


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, tuple[int, ...], Shape]:
    scale_factor = draw(st.integers(1, 4))
    size = scale_factor * draw(st.integers(1, 4))
    bits = draw(st.integers(1, 8))
    inner = draw(st.sets(st.integers(1, bits - 1))) if bits > 1 else set()
    return scale_factor, (0, *sorted(inner), bits), (size, size, draw(st.sampled_from([1, 3])))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(layout=layouts(), count=st.sampled_from([20, 256, 300]), seed=st.integers(0, 99))
def test_slices_and_bits_join_to_the_images_of_the_source(
    tmp_path_factory: pytest.TempPathFactory, layout: tuple[int, tuple[int, ...], Shape], count: int, seed: int
) -> None:
    scale_factor, cuts, shape = layout
    root = tmp_path_factory.mktemp("root")
    write_arrays(root, train=random_images(count, *shape, seed=seed), test=random_images(5, *shape, seed=seed + 1))
    section = arrays(shape, bits=cuts[-1], validation=10, split_seed=seed)
    write_slices(section, scale_factor, cuts, root, root / "out.h5", progress=False)
    assert_holds(root / "out.h5", section, root)


def test_the_digits_under_two_layouts_are_the_same_images(tmp_path: Path) -> None:
    section = data_section(**DIGITS)
    write_slices(section, 2, (0, 2, 5), tmp_path, tmp_path / "a.h5", progress=False)
    write_slices(section, 4, (0, 5), tmp_path, tmp_path / "b.h5", progress=False)
    assert_holds(tmp_path / "a.h5", section, tmp_path)
    assert_holds(tmp_path / "b.h5", section, tmp_path)


def test_attributes_say_what_the_file_holds(tmp_path: Path) -> None:
    write_arrays(tmp_path, train=random_images(30, 8, 8, 3), val=random_images(6, 8, 8, 3, seed=1))
    section = arrays((8, 8, 3), validation=4, limit={"train": 9})
    write_slices(section, 2, (0, 3, 8), tmp_path, tmp_path / "out.h5", progress=False)
    file = SliceFile(tmp_path / "out.h5")
    assert (file.origin.dataset, file.origin.source, file.origin.release) == ("made", "arrays", "made here")
    assert (file.scale_factor, file.cuts, file.bits, file.shape) == (2, (0, 3, 8), 8, (8, 8, 3))
    assert [file.num_images(split) for split in SPLITS] == [9, 4, 6]
    assert json.loads(file.origin.limit) == {"train": 9, "validation": None, "test": None}
    assert file.origin.source_digest == open_source(section, tmp_path).digest
    assert (file.origin.skipped, file.origin.duplicates) == (0, 0)


def test_a_second_run_writes_the_same_bytes(tmp_path: Path) -> None:
    section = data_section(**DIGITS)
    write_slices(section, 2, (0, 2, 5), tmp_path, tmp_path / "first.h5", progress=False)
    time.sleep(1.1)  # HDF5 counts time in seconds
    write_slices(section, 2, (0, 2, 5), tmp_path, tmp_path / "second.h5", progress=False)
    assert (tmp_path / "first.h5").read_bytes() == (tmp_path / "second.h5").read_bytes()


def test_the_digest_changes_with_one_pixel(tmp_path: Path) -> None:
    train, test = random_images(30, 8, 8, 3), random_images(6, 8, 8, 3, seed=1)
    digests = []
    for index in range(2):
        root = tmp_path / str(index)
        write_arrays(root, train=train, val=test)
        write_slices(arrays((8, 8, 3), validation=4), 2, (0, 3, 8), root, root / "out.h5", progress=False)
        digests.append(SliceFile(root / "out.h5").digest)
        test[5, 7, 7, 2] ^= 1
    assert digests[0] != digests[1]


def test_test_images_found_in_train_or_validation_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = random_images(600, 8, 8, 3), random_images(40, 8, 8, 3, seed=1)
    test[[3, 17, 39]] = train[[5, 300, 599]]
    test[21] = test[3]
    test[30] = test[29]
    train[7] = train[5]
    write_arrays(tmp_path, train=train, val=test)
    write_slices(arrays((8, 8, 3), validation=400), 2, (0, 8), tmp_path, tmp_path / "out.h5", progress=False)
    assert SliceFile(tmp_path / "out.h5").origin.duplicates == 4
    assert "4 of test also in train or validation" in capsys.readouterr().out


def test_images_that_differ_in_dropped_bits_only_are_duplicates(tmp_path: Path) -> None:
    train = random_images(20, 8, 8, 3)
    write_arrays(tmp_path, train=train, val=train[:5] ^ 31)
    for bits, duplicates in ((8, 0), (3, 5)):
        section = arrays((8, 8, 3), bits=bits, validation=4)
        write_slices(section, 2, (0, bits), tmp_path, tmp_path / "out.h5", progress=False)
        assert SliceFile(tmp_path / "out.h5").origin.duplicates == duplicates


def pictures_section(**keys: Any) -> DataSection:
    section = {"source": "folder", "name": "pictures", "bits": 8, "size": 8, "channels": 3, "fit": "crop"}
    return data_section(**section | {"filter": "box", "validation": 2, "test": 2} | keys)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for index, picture in enumerate(random_images(10, 8, 8, 3)):
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{index}.png")
    (tmp_path / "pictures" / "bad.png").write_bytes(b"no image")
    return tmp_path


def test_nothing_is_written_where_a_picture_is_bad(pictures: Path) -> None:
    with pytest.raises(InputError, match=r"bad\.png"):
        write_slices(pictures_section(), 2, (0, 8), pictures, pictures / "out" / "a.h5", progress=False)
    assert not (pictures / "out").exists()


def test_many_skipped_pictures_are_named_up_to_twenty(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(25):
        (pictures / "pictures" / f"bad{index:02}.png").write_bytes(b"")
    write_slices(pictures_section(unreadable="skip"), 2, (0, 8), pictures, pictures / "a.h5", progress=False)
    said = capsys.readouterr()
    assert "; 26 skipped: bad.png (not an image), bad00.png (not an image), " in said.out
    assert ", bad18.png (not an image) and 6 more; source_digest " in said.out
    assert [line.split()[1] for line in said.err.splitlines()][-2:] == ["bad23.png:", "bad24.png:"]


def test_skipped_pictures_are_counted_and_named(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    section = pictures_section(unreadable="skip")
    write_slices(section, 2, (0, 8), pictures, pictures / "a.h5", progress=False)
    assert SliceFile(pictures / "a.h5").origin.skipped == 1
    said = capsys.readouterr()
    assert said.out.endswith(
        "a.h5: 6 train, 2 validation, 2 test images; 0 of test also in train or validation; "
        f"1 skipped: bad.png (not an image); source_digest {open_source(section, pictures).digest}\n"
    )
    assert said.err == "skipped bad.png: not an image\n"
    assert_holds(pictures / "a.h5", section, pictures)


def test_a_failure_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    write_arrays(tmp_path, train=random_images(600, 8, 8, 3), val=random_images(6, 8, 8, 3, seed=1))
    output = tmp_path / "out" / "a.h5"
    section = arrays((8, 8, 3), validation=4)
    write_slices(section, 2, (0, 8), tmp_path, output, progress=False)
    before = output.read_bytes()
    damaged = bytearray((tmp_path / "made" / "train.npz").read_bytes())
    damaged[90_000] ^= 255
    (tmp_path / "made" / "train.npz").write_bytes(damaged)
    with pytest.raises(InputError, match=r"train\.npz"):
        write_slices(section, 2, (0, 8), tmp_path, output, progress=False)
    assert [path.name for path in output.parent.iterdir()] == ["a.h5"]
    assert output.read_bytes() == before


def test_progress_is_shown_unless_it_is_not_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    section = data_section(**DIGITS)
    write_slices(section, 2, (0, 5), tmp_path, tmp_path / "a.h5", progress=False)
    assert capsys.readouterr().err == ""
    write_slices(section, 2, (0, 5), tmp_path, tmp_path / "a.h5")
    assert "1797/1797" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_data_set(tmp_path: Path) -> None:
    peaks = []
    for count in (500, 2500):
        root = tmp_path / str(count)
        write_arrays(root, train=random_images(count, 16, 16, 3), val=random_images(50, 16, 16, 3, seed=1))
        tracemalloc.start()
        write_slices(arrays((16, 16, 3), validation=100), 2, (0, 3, 8), root, root / "out.h5", progress=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The larger set holds 1.5 MB more of pixels; what may grow is some words an image, for labels and order.
    assert peaks[1] - peaks[0] < 0.75e6


@pytest.mark.slow
def test_real_mnist_digits(tmp_path: Path) -> None:
    folder = real_file("mnist")
    limit = {"train": 300, "validation": 50, "test": 100}
    section = data_section(source="mnist", name="mnist", bits=8, validation=5000, limit=limit)
    write_slices(section, 4, (0, 1, 8), folder.parent, tmp_path / "mnist.h5", progress=False)
    assert_holds(tmp_path / "mnist.h5", section, folder.parent)
    labels = SliceFile(tmp_path / "mnist.h5").labels("test", np.arange(100))
    assert labels is not None
    assert set(labels.tolist()) == set(range(10))
