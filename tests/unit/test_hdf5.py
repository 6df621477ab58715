"""The HDF5 files: random access without h5py objects, refusal of other files, samples and their attributes."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from source_files import data_section

from spn.config import InputError
from spn.data.hdf5 import SliceFile
from spn.data.images import read_images, write_images
from spn.data.layout import SPLITS, Layout, Origin
from spn.data.preprocess import write_slices
from spn.data.seal import Extent, open_sealed, write_seal
from spn.data.sources import open_source
from spn.data.writing import create_slices
from spn.image import join_slices
from spn.notes import read_notes, read_seal

DIGITS = {"source": "digits", "name": "digits", "bits": 5, "validation": 20, "test": 30, "limit": {"train": 100}}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slices")
    write_slices(data_section(**DIGITS), 2, (0, 2, 5), folder, folder / "S2.h5", progress=False)
    return folder / "S2.h5"


@pytest.fixture
def copy(path: Path, tmp_path: Path) -> Path:
    target = tmp_path / "copy.h5"
    target.write_bytes(path.read_bytes())
    return target


def test_the_layout_is_the_documented_one(path: Path) -> None:
    with h5py.File(path) as file:
        for split, count in {"train": 100, "validation": 20, "test": 30}.items():
            assert set(file[split]) == {"bits_0_2", "bits_2_5", "labels"}
            for name in ("bits_0_2", "bits_2_5"):
                dataset = file[split][name]
                assert (dataset.shape, dataset.dtype) == ((2, 2, count, 4, 4, 1), np.uint8)
                assert dataset.chunks is None
            assert (file[split]["labels"].shape, file[split]["labels"].dtype) == ((count,), np.int64)
            assert file.attrs[f"num_images_{split}"] == count
        assert file["train/bits_0_2"][()].max() == 2
        assert file["train/bits_2_5"][()].max() == 7
        # A digest for each slice of two ranges in three splits, and one for each split's labels.
        assert (file["sha256"].shape, file["sha256"].dtype) == ((2 * 3 * 4 + 3, 32), np.uint8)
        assert file.attrs["layout_version"] == 4
        assert file.userblock_size == 16384


@settings(max_examples=20, deadline=None)
@given(indices=st.lists(st.integers(0, 99), min_size=1, max_size=12))
def test_any_images_can_be_asked_for(path: Path, indices: list[int]) -> None:
    file = SliceFile(path)
    everything = file.slices("train", np.arange(100))
    chosen = torch.tensor(indices)
    assert torch.equal(file.slices("train", chosen), everything[chosen])
    labels, all_labels = file.labels("train", chosen), file.labels("train", np.arange(100))
    assert labels is not None
    assert all_labels is not None
    assert torch.equal(labels, all_labels[chosen])


def test_what_is_read_may_be_written_to(path: Path) -> None:
    file = SliceFile(path)
    first = file.slices("test", torch.tensor([0]))
    expected = first.clone()
    first += 1
    assert torch.equal(file.slices("test", torch.tensor([0])), expected)


def test_every_slice_of_every_range_has_its_digest_in_the_file(path: Path) -> None:
    seal = read_seal(path, "slices")
    with h5py.File(path) as file:
        content, table = path.read_bytes(), file["sha256"]
        assert seal["datasets"].keys() == {f"{split}/{name}" for split in SPLITS for name in file[split]}
        for name, extent in seal["datasets"].items():
            parts = file[name][()].reshape(extent["parts"], -1)
            assert extent["parts"] == (1 if name.endswith("labels") else 4)
            first = (extent["digests"] - table.id.get_offset()) // 32
            for number, part in enumerate(parts):
                start = extent["offset"] + number * part.nbytes
                assert content[start : start + part.nbytes] == part.tobytes()
                assert table[first + number].tobytes() == hashlib.sha256(part.tobytes()).digest()


def test_the_digest_is_of_images_and_labels_however_they_are_cut(path: Path, tmp_path: Path) -> None:
    section = data_section(**DIGITS)
    source = open_source(section, tmp_path)
    images, labels = ({split: list(source.stream(split)) for split in SPLITS} for _ in range(2))
    expected = {
        "bits": 5,
        "shape": [8, 8, 1],
        "num_images": {"train": 100, "validation": 20, "test": 30},
        "levels": {split: sha256(np.stack([image for image, _ in images[split]])) for split in SPLITS},
        "labels": {split: sha256(np.array([label for _, label in labels[split]], dtype="<i8")) for split in SPLITS},
    }
    digest = hashlib.sha256(json.dumps(expected, sort_keys=True).encode()).hexdigest()
    assert read_notes(path)["digest"] == SliceFile(path).digest == digest
    for scale_factor, cuts in ((1, (0, 5)), (2, (0, 1, 4, 5)), (8, (0, 2, 5))):
        write_slices(section, scale_factor, cuts, tmp_path, tmp_path / "other.h5", progress=False)
        assert SliceFile(tmp_path / "other.h5").digest == digest


def sha256(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


@pytest.mark.parametrize("scale_factor", [8, 16])
def test_the_seal_holds_any_number_of_slices(tmp_path: Path, scale_factor: int) -> None:
    """All bits cut and all slices: 6,144 digests, and notes as large as those of the workflow."""
    images = np.arange(5 * 16 * 16 * 3, dtype=np.uint8).reshape(5, 16, 16, 3)
    layout, counts = Layout(scale_factor, tuple(range(9)), (16, 16, 3)), dict.fromkeys(SPLITS, 5)
    with create_slices(tmp_path / "out.h5", layout, counts, {*SPLITS}) as writer:
        for split in SPLITS:
            writer.append(split, images[:2], [1, 2])
            writer.append(split, images[2:], [3, 4, 5])
        writer.finish(Origin("made", "arrays", "", "", "", 0, 0), {"recipe": "x" * 4000})
    assert len(read_notes(tmp_path / "out.h5")["recipe"]) == 4000
    file = SliceFile(tmp_path / "out.h5")
    for split in SPLITS:
        assert np.array_equal(join_slices(file.slices(split, np.arange(5))).numpy(), images)
    offset = offset_of(tmp_path / "out.h5", "train/bits_7_8")
    flip(tmp_path / "out.h5", offset + 5 * images[0].size - 1)
    file = SliceFile(tmp_path / "out.h5")
    file.slices("test", np.arange(5))
    with pytest.raises(InputError, match="in its dataset train/bits_7_8: damaged"):
        file.slices("train", np.arange(1))
    with (
        pytest.raises(InputError, match="in its dataset train/bits_7_8: damaged"),
        open_sealed(tmp_path / "out.h5", "slices") as (_, seal),
    ):
        seal.check_all()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^{tmp_path}/none\.h5: expected slices .*, got no such file$"):
        SliceFile(tmp_path / "none.h5")


@pytest.mark.parametrize("keep", [0, 100, 10_000, -1])
def test_a_truncated_file_is_refused_by_name(copy: Path, keep: int) -> None:
    copy.write_bytes(copy.read_bytes()[:keep])
    with pytest.raises(InputError, match=rf"^{copy}: expected [^\n]* delete it and run the workflow again$"):
        SliceFile(copy)


def test_a_file_without_a_seal_is_refused_by_name(copy: Path) -> None:
    copy.write_bytes(copy.read_bytes()[8192:])
    expected = "expected slices .*, got a file without a seal, of an older version"
    with pytest.raises(InputError, match=rf"^{copy}: {expected}[^\n]* delete it and run the workflow again$"):
        SliceFile(copy)


def flip(path: Path, position: int) -> None:
    with path.open("rb+") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1]))


def offset_of(path: Path, name: str) -> int:
    with h5py.File(path) as file:
        return file[name].id.get_offset()


def test_damaged_slices_are_refused_when_their_split_is_first_read(copy: Path) -> None:
    flip(copy, offset_of(copy, "validation/bits_2_5") + 7)
    file = SliceFile(copy)
    file.slices("train", np.arange(3))
    for _ in range(2):
        with pytest.raises(InputError, match=rf"^{copy}: .* in its dataset validation/bits_2_5: damaged; delete it"):
            file.slices("validation", np.arange(1))


def test_damaged_labels_are_refused_at_once(copy: Path) -> None:
    flip(copy, offset_of(copy, "validation/labels") + 8)
    with pytest.raises(InputError, match=rf"^{copy}: .* in its dataset validation/labels: damaged; delete it"):
        SliceFile(copy)


def test_a_damaged_table_of_digests_is_refused_at_once(copy: Path) -> None:
    flip(copy, offset_of(copy, "sha256") + 40)
    with pytest.raises(InputError, match=rf"^{copy}: .* in its metadata: damaged; delete it"):
        SliceFile(copy)


def test_a_file_of_the_version_before_is_refused_by_name(copy: Path) -> None:
    """Its seal had the digests themselves."""
    copy.write_bytes(b"spn seal, sha256 " + copy.read_bytes()[len(b"spn seal, sha256 ") :])
    expected = "got a file without a seal, of an older version or of another kind; "
    for read in (SliceFile, read_notes):
        with pytest.raises(InputError, match=rf"^{copy}: expected [^\n]*{expected}[^\n]*run the workflow again$"):
            read(copy)


def seal_again(path: Path) -> None:
    """Seal a file that was changed on purpose, as one of the version that changed it."""
    extents: dict[str, Extent] = {}

    def measure(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and (offset := item.id.get_offset()) is not None and name != "sha256":
            row = item.file["sha256"].id.get_offset()
            extents[name] = Extent(offset, item.nbytes, 1 if name.endswith("labels") else 4, row)

    with h5py.File(path) as file:
        file.visititems(measure)
    write_seal(path, extents, {})


def set_version(file: h5py.File) -> None:
    file.attrs["layout_version"] = 3


def drop_digest(file: h5py.File) -> None:
    del file.attrs["digest"]


def drop_range(file: h5py.File) -> None:
    del file["test/bits_2_5"]


def drop_split(file: h5py.File) -> None:
    del file["validation"]


def replace(file: h5py.File, **options: Any) -> None:
    content = file["test/bits_2_5"][()]
    del file["test/bits_2_5"]
    file.create_dataset("test/bits_2_5", **{"data": content} | options)


def compress(file: h5py.File) -> None:
    replace(file, compression="gzip")


def widen(file: h5py.File) -> None:
    replace(file, dtype="u2")


def shorten(file: h5py.File) -> None:
    replace(file, data=np.zeros((2, 2, 29, 4, 4, 1), dtype=np.uint8))


def turn_into_group(file: h5py.File) -> None:
    del file["test/bits_2_5"]
    file.create_group("test/bits_2_5")


def cut_elsewhere(file: h5py.File) -> None:
    file.attrs["cuts"] = [0, 3, 2]


def scale_otherwise(file: h5py.File) -> None:
    file.attrs["scale_factor"] = 3


@pytest.mark.parametrize(
    "spoil",
    [
        *(set_version, drop_digest, drop_range, drop_split, compress, widen, shorten),
        *(turn_into_group, cut_elsewhere, scale_otherwise),
    ],
)
def test_a_file_of_another_layout_is_refused_by_name(copy: Path, spoil: Callable[[h5py.File], None]) -> None:
    with h5py.File(copy, "r+") as file:
        spoil(file)
    seal_again(copy)
    with pytest.raises(InputError, match=rf"^{copy}: expected slices [^\n]*$"):
        SliceFile(copy)


IMAGES = torch.arange(2 * 3 * 4 * 3, dtype=torch.uint8).reshape(2, 3, 4, 3)


def test_samples_and_their_attributes_come_back(tmp_path: Path) -> None:
    attributes = {"stage": "low", "seed": 7, "temperature": 0.99, "note": "größer"}
    write_images(tmp_path / "new" / "samples.h5", IMAGES, attributes)
    images, read = read_images(tmp_path / "new" / "samples.h5")
    assert torch.equal(images, IMAGES)
    assert read == attributes
    assert {key: type(value) for key, value in read.items()} == {key: type(value) for key, value in attributes.items()}


def test_samples_written_again_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        write_images(tmp_path / name, IMAGES, {"seed": 1})
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_samples_that_cannot_be_written_leave_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "samples.h5"
    write_images(path, IMAGES, {"seed": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_images(path, IMAGES, {"note": object()})
    assert read_images(path)[1] == {"seed": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_slices_are_no_samples(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^{tmp_path}/none\.h5: expected images, got no such file$"):
        read_images(tmp_path / "none.h5")
    with pytest.raises(InputError, match=rf"^{path.parent}/S2\.h5: expected images, got"):
        read_images(path)
