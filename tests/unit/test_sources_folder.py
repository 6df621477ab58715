"""Folders and zips of images: the rule that makes levels of pictures, and what is done about bad files."""

import io
import itertools
import math
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from source_files import data_section, deep_rgb, images_of, labels_of, positions, random_images, real_file

from spn.config import DataSection, FolderData, InputError
from spn.data.layout import SPLITS
from spn.data.sources import open_source, pictures
from spn.data.sources.picture import decode_picture

PICTURES = random_images(12, 20, 24, 3)
NAMES = [f"{index:02}.png" for index in range(12)]


Contents = dict[str, bytes]
Write = Callable[[Path, Contents], None]


def folder_section(**keys: Any) -> DataSection:
    section = {"source": "folder", "name": "pictures", "bits": 8, "size": 8, "channels": 3, "fit": "crop"}
    return data_section(**section | {"filter": "box", "validation": 2, "test": 3} | keys)


def encoded(picture: np.ndarray | Image.Image, suffix: str = "png", **options: Any) -> bytes:
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    content = io.BytesIO()
    picture.save(content, {"jpg": "JPEG"}.get(suffix, suffix.upper()), **options)
    return content.getvalue()


def write_folder(root: Path, contents: Contents) -> None:
    for name, content in contents.items():
        path = root / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_zip(root: Path, contents: Contents) -> None:
    with zipfile.ZipFile(root / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def png_contents(prefix: str = "") -> Contents:
    return {prefix + name: encoded(picture) for name, picture in zip(NAMES, PICTURES, strict=True)}


def sole_image(root: Path, content: bytes, suffix: str = "png", **keys: Any) -> np.ndarray:
    """Return the levels made of one file, put in every split."""
    write_folder(root, {f"{split}/a.{suffix}": content for split in SPLITS})
    source = open_source(folder_section(**{"validation": None, "test": None} | keys), root)
    return images_of(source, "test")[0]


@pytest.mark.parametrize("fit", ["crop", "resize"])
@pytest.mark.parametrize(("height", "width"), [(11, 13), (8, 9), (9, 8), (15, 10)])
def test_of_an_odd_margin_the_smaller_half_is_above_and_to_the_left(
    tmp_path: Path, height: int, width: int, fit: str
) -> None:
    picture = random_images(1, height, width, 3)[0]
    side = 8 if fit == "crop" else min(height, width)
    top, left = math.floor((height - side) / 2), math.floor((width - side) / 2)
    square = picture[top : top + side, left : left + side]
    expected = square if side == 8 else np.asarray(Image.fromarray(square).resize((8, 8), Image.Resampling.BOX))
    assert np.array_equal(sole_image(tmp_path, encoded(picture), fit=fit), expected)


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_centre_crops_are_exact_and_every_picture_is_in_one_split(tmp_path: Path, write: Write) -> None:
    write(tmp_path, dict(reversed(png_contents("some/where/").items())))
    source = open_source(folder_section(), tmp_path)
    crops = PICTURES[:, 6:14, 8:16]
    places = [positions(images_of(source, split), crops) for split in SPLITS]
    assert [len(part) for part in places] == [7, 2, 3]
    assert all(part == sorted(part) for part in places)
    assert sorted(itertools.chain(*places)) == list(range(12))


def test_a_zip_and_the_folder_in_it_are_one_data_set(tmp_path: Path) -> None:
    (tmp_path / "zip").mkdir()
    write_folder(tmp_path, png_contents())
    write_zip(tmp_path / "zip", png_contents())
    folder, archive = (open_source(folder_section(), root) for root in (tmp_path, tmp_path / "zip"))
    assert folder.digest == archive.digest
    assert np.array_equal(images_of(folder, "train"), images_of(archive, "train"))


def test_resizing_takes_the_largest_centre_square(tmp_path: Path) -> None:
    small = random_images(1, 8, 8, 3)[0]
    wide = np.full((16, 30, 3), 255, dtype=np.uint8)
    wide[:, 7:23] = small.repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(sole_image(tmp_path, encoded(wide), fit="resize"), small)


@pytest.mark.parametrize("name", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_the_filter_is_the_one_named(tmp_path: Path, name: str) -> None:
    square = random_images(1, 21, 21, 3)[0]
    expected = Image.fromarray(square).resize((8, 8), Image.Resampling[name.upper()])
    actual = sole_image(tmp_path, encoded(square), fit="resize", filter=name)
    assert np.array_equal(actual, np.asarray(expected))


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    actual = sole_image(tmp_path, encoded(PICTURES[0], exif=exif))
    assert np.array_equal(actual, np.rot90(PICTURES[0], -1)[8:16, 6:14])


def test_grey_becomes_equal_channels(tmp_path: Path) -> None:
    grey = PICTURES[0, :, :, 0]
    actual = sole_image(tmp_path, encoded(grey))
    assert np.array_equal(actual, np.repeat(grey[6:14, 8:16, None], 3, axis=2))


def test_colours_become_luma(tmp_path: Path) -> None:
    actual = sole_image(tmp_path, encoded(PICTURES[0]), channels=1)
    luma = PICTURES[0, 6:14, 8:16] @ np.array([0.299, 0.587, 0.114])
    assert actual.shape == (8, 8, 1)
    assert np.abs(actual[..., 0] - luma).max() <= 1


def test_transparency_is_ignored(tmp_path: Path) -> None:
    faint = np.dstack([PICTURES[0], np.zeros((20, 24, 1), dtype=np.uint8)])
    assert np.array_equal(sole_image(tmp_path, encoded(faint)), PICTURES[0, 6:14, 8:16])


def test_palettes_become_their_colours(tmp_path: Path) -> None:
    colours = random_images(1, 4, 3, seed=5)[0]
    numbers = random_images(1, 20, 24, seed=6)[0] % 4
    picture = Image.fromarray(numbers)
    picture.putpalette(colours.tobytes())
    content = encoded(picture, transparency=bytes([0, 100, 255, 3]))
    assert np.array_equal(sole_image(tmp_path, content), colours[numbers][6:14, 8:16])


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_jpegs_of_other_colours_are_read(tmp_path: Path, mode: str) -> None:
    flat = Image.new("RGB", (20, 20), (120, 120, 120)).convert(mode)
    actual = sole_image(tmp_path, encoded(flat, "jpg", quality=95), "jpg")
    assert np.abs(actual.astype(int) - 120).max() <= 3


def huge_png(width: int, height: int) -> bytes:
    """Write a small file that states a huge size."""
    content = encoded(Image.new("1", (8, 8)))
    header = b"IHDR" + struct.pack(">2I5B", width, height, 1, 0, 0, 0, 0)
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


BAD = {
    "truncated.png": encoded(PICTURES[0])[:-600],
    "truncated.jpg": encoded(PICTURES[0], "jpg")[:-200],
    "text.png": b"this is no image",
    "empty.png": b"",
    "small.png": encoded(PICTURES[0, :7]),
    "deep.png": encoded(PICTURES[0, :, :, 0].astype(np.uint16) * 257),
    **deep_rgb(24, 24),
    "bomb.png": huge_png(10_000, 10_000),
    "larger_bomb.png": huge_png(100_000, 100_000),
}


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_all_bad_files_are_listed_in_one_line(tmp_path: Path, write: Write) -> None:
    write(tmp_path, png_contents() | BAD)
    with pytest.raises(InputError) as caught:
        open_source(folder_section(), tmp_path)
    message = str(caught.value)
    assert "got 13 of 25 that are not" in message
    assert all(name in message for name in BAD)
    assert "7x24" in message
    assert "\n" not in message
    assert not any(name in message for name in NAMES)


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_bad_files_are_skipped_only_when_told_to(tmp_path: Path, write: Write) -> None:
    write(tmp_path, png_contents() | BAD)
    source = open_source(folder_section(unreadable="skip"), tmp_path)
    assert sorted(source.skipped) == sorted(BAD)
    assert {split: source.count(split) for split in SPLITS} == {"train": 7, "validation": 2, "test": 3}
    (tmp_path / "clean").mkdir()
    write(tmp_path / "clean", png_contents())
    clean = open_source(folder_section(), tmp_path / "clean")
    assert clean.skipped == {}
    assert clean.digest == source.digest
    assert np.array_equal(images_of(clean, "test"), images_of(source, "test"))


def test_a_long_list_ends_in_a_count(tmp_path: Path) -> None:
    write_folder(tmp_path, png_contents() | {f"bad{index:02}.png": b"" for index in range(33)})
    with pytest.raises(InputError, match=r"got 33 of 45 .*bad19\.png \(.{1,60}\) and 13 more$"):
        open_source(folder_section(), tmp_path)


def test_a_damaged_member_of_a_zip_is_listed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w", zipfile.ZIP_STORED) as archive:
        for name, content in png_contents().items():
            archive.writestr(name, content)
    damaged = bytearray((tmp_path / "pictures.zip").read_bytes())
    damaged[damaged.index(encoded(PICTURES[3])) + 700] ^= 255
    (tmp_path / "pictures.zip").write_bytes(damaged)
    with pytest.raises(InputError, match=r"got 1 of 12 .*: 03\.png \(Bad CRC"):
        open_source(folder_section(), tmp_path)


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_a_file_of_absurd_size_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    monkeypatch.setattr("spn.data.sources.pictures.MAX_FILE_BYTES", 3000)
    write(tmp_path, png_contents() | {"large.png": bytes(3001)})
    with pytest.raises(InputError, match=r"got 1 of 13 .*: large\.png \(more than 3000 bytes\)$"):
        open_source(folder_section(), tmp_path)


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_a_picture_is_read_and_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    decoded: list[bytes] = []

    def decode(content: bytes, section: FolderData) -> np.ndarray:
        decoded.append(content)
        return decode_picture(content, section)

    monkeypatch.setattr(pictures, "decode_picture", decode)
    write(tmp_path, png_contents())
    source = open_source(folder_section(), tmp_path)
    for path in (tmp_path / "pictures", tmp_path / "pictures.zip"):
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    crops = PICTURES[:, 6:14, 8:16]
    assert sorted(itertools.chain(*(positions(images_of(source, split), crops) for split in SPLITS))) == [*range(12)]
    assert decoded == [*png_contents().values()]


@pytest.mark.parametrize("top", ["", "top/"])
@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_sub_folders_are_the_splits(tmp_path: Path, write: Write, top: str) -> None:
    folders = ["train"] * 6 + ["validation"] * 2 + ["test"] * 4
    contents = {f"{top}{folder}/{name}": encoded(p) for folder, name, p in zip(folders, NAMES, PICTURES, strict=True)}
    write(tmp_path, contents | {f"{top}readme.txt": b"not an image"})
    source = open_source(folder_section(validation=None, test=None), tmp_path)
    crops = PICTURES[:, 6:14, 8:16]
    assert [positions(images_of(source, split), crops) for split in SPLITS] == [
        [0, 1, 2, 3, 4, 5],
        [6, 7],
        [8, 9, 10, 11],
    ]


def test_a_count_for_a_split_with_a_folder_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, png_contents("train/") | png_contents("test/"))
    with pytest.raises(InputError, match=r"data\.test: expected no count, as .* has test images, got 3"):
        open_source(folder_section(), tmp_path)
    assert open_source(folder_section(test=None), tmp_path).count("validation") == 2


def test_a_split_with_neither_folder_nor_count_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, png_contents())
    with pytest.raises(InputError, match=r"data\.test: expected a count, as .* has no test images"):
        open_source(folder_section(test=None), tmp_path)


def test_pictures_beside_the_splits_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, png_contents("train/") | png_contents("val/"))
    with pytest.raises(InputError, match=r"expected all images in train/, validation/ or test/, got train, val"):
        open_source(folder_section(), tmp_path)


CLASSES = ["10", "2", "ant", "2", "bee", "10", "ant", "bee", "2", "10", "bee", "ant"]
"""The class of each picture; as text, 10 comes before 2."""
LABELS = [sorted(set(CLASSES)).index(name) for name in CLASSES]


def class_contents(places: list[str], classes: list[str] = CLASSES) -> Contents:
    """Put each picture at a place with its class."""
    pictures = map(encoded, PICTURES)
    return {
        f"{place.format(name)}/{file}": picture
        for place, name, file, picture in zip(places, classes, NAMES, pictures, strict=True)
    }


def split_contents(train: list[str], test: list[str]) -> Contents:
    """Put pictures of these classes in the folders of two splits."""
    files = [f"train/{name}/{file}" for name in train for file in NAMES[:3]] + [f"test/{name}/a.png" for name in test]
    return dict.fromkeys(files, encoded(PICTURES[0]))


@pytest.mark.parametrize("top", ["", "top/"])
@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_folders_are_classes_in_the_order_of_their_names(tmp_path: Path, write: Write, top: str) -> None:
    places = [f"{top}{{}}", f"{top}{{}}/deeper/still"] * 6
    write(tmp_path, dict(reversed(class_contents(places).items())))
    source = open_source(folder_section(num_classes=4), tmp_path)
    crops = PICTURES[:, 6:14, 8:16]
    for split in SPLITS:
        assert source.labelled(split)
        assert labels_of(source, split) == [LABELS[place] for place in positions(images_of(source, split), crops)]


@pytest.mark.parametrize("top", ["", "top/"])
@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_folders_in_those_of_the_splits_are_classes(tmp_path: Path, write: Write, top: str) -> None:
    classes = ["ant", "ant", "bee", "cow"] * 3
    places = [f"{top}{split}/{{}}" for split in SPLITS for _ in range(4)]
    write(tmp_path, class_contents(places, classes))
    source = open_source(folder_section(validation=None, test=None, num_classes=3), tmp_path)
    assert {split: labels_of(source, split) for split in SPLITS} == {split: [0, 0, 1, 2] for split in SPLITS}
    assert np.array_equal(images_of(source, "test"), PICTURES[8:, 6:14, 8:16])


@pytest.mark.parametrize("write", [write_folder, write_zip])
@pytest.mark.parametrize("keys", [{}, {"num_classes": 0}], ids=["absent", "0"])
def test_folders_are_no_classes_unless_their_number_is_stated(
    tmp_path: Path, write: Write, keys: dict[str, int]
) -> None:
    write(tmp_path, class_contents(["{}"] * 12) | {"stray.png": encoded(PICTURES[0])})
    source = open_source(folder_section(**keys), tmp_path)
    assert not any(map(source.labelled, SPLITS))
    assert {label for split in SPLITS for label in labels_of(source, split)} == {None}


def test_classes_change_neither_images_nor_splits_nor_digest(tmp_path: Path) -> None:
    write_folder(tmp_path, class_contents(["{}"] * 12))
    plain, labelled = (open_source(folder_section(num_classes=count), tmp_path) for count in (0, 4))
    assert (plain.digest, plain.release) == (labelled.digest, labelled.release)
    for split in SPLITS:
        assert np.array_equal(images_of(plain, split), images_of(labelled, split))


def test_a_class_keeps_its_number_when_its_pictures_are_skipped(tmp_path: Path) -> None:
    write_folder(tmp_path, class_contents(["{}"] * 12) | {"0/broken.png": b""})
    source = open_source(folder_section(num_classes=5, unreadable="skip"), tmp_path)
    labels = {label for split in SPLITS for label in labels_of(source, split)}
    assert labels == {1, 2, 3, 4}


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_another_number_of_classes_is_refused(tmp_path: Path, write: Write) -> None:
    write(tmp_path, class_contents(["{}"] * 12))
    expected = r"pictures(\.zip)?: expected 3 class folders, as data\.num_classes says, got 4: 10, 2, ant, bee$"
    with pytest.raises(InputError, match=expected):
        open_source(folder_section(num_classes=3), tmp_path)


def test_a_long_list_of_classes_ends_in_a_count(tmp_path: Path) -> None:
    write_folder(tmp_path, class_contents(["some/train/{}"] * 12, [f"c{index:02}" for index in range(12)]))
    with pytest.raises(InputError, match=r"pictures/some/train: .* got 12: c00, c01, c02, c03, c04 and 7 more$"):
        open_source(folder_section(num_classes=3), tmp_path)


@pytest.mark.parametrize("write", [write_folder, write_zip])
@pytest.mark.parametrize("stray", ["stray.png", "train/stray.png"])
def test_a_picture_of_no_class_is_named(tmp_path: Path, write: Write, stray: str) -> None:
    place = "train/{}" if "/" in stray else "{}"
    write(tmp_path, class_contents([place] * 12) | {stray: encoded(PICTURES[0])})
    expected = rf"expected each image in the folder of its class, as data\.num_classes is stated, got {stray}$"
    with pytest.raises(InputError, match=expected):
        open_source(folder_section(num_classes=4), tmp_path)


def test_a_picture_beside_the_classes_in_the_only_folder_is_named(tmp_path: Path) -> None:
    write_zip(tmp_path, class_contents(["top/{}"] * 12) | {"top/stray.png": encoded(PICTURES[0])})
    expected = r"pictures\.zip: expected 4 class folders, .*, got 1: top, with top/stray\.png directly in it$"
    with pytest.raises(InputError, match=expected):
        open_source(folder_section(num_classes=4), tmp_path)


@pytest.mark.parametrize(
    ("test", "got"), [(["ant", "bee", "cow", "dog"], "also cow, dog"), (["bee"], "no ant")], ids=["more", "fewer"]
)
@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_classes_that_differ_between_splits_are_refused(
    tmp_path: Path, write: Write, test: list[str], got: str
) -> None:
    write(tmp_path, split_contents(["ant", "bee"], test))
    expected = rf"pictures(\.zip)?/test: expected the class folders that train has, got {got}$"
    with pytest.raises(InputError, match=expected):
        open_source(folder_section(test=None, num_classes=2), tmp_path)


def test_mistakes_in_classes_are_told_before_any_picture_is_decoded(tmp_path: Path) -> None:
    write_folder(tmp_path, {"ant/a.png": b"no image"})
    with pytest.raises(InputError, match="expected 2 class folders"):
        open_source(folder_section(num_classes=2), tmp_path)


def test_hidden_files_and_other_kinds_are_no_images(tmp_path: Path) -> None:
    write_zip(tmp_path, png_contents() | {"__MACOSX/._00.png": b"x", ".thumb.png": b"x", "notes.txt": b"x"})
    assert sum(map(open_source(folder_section(), tmp_path).count, SPLITS)) == 12


def test_no_images_at_all_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"notes.txt": b"x"})
    with pytest.raises(InputError, match=r"pictures: expected images \(\.png, .*\), got none"):
        open_source(folder_section(), tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "pictures.zip"
    with pytest.raises(InputError, match=rf"^{archive}: expected a zip .* dvc import-url URL {archive}$"):
        open_source(folder_section(), tmp_path)


def test_a_folder_beside_a_zip_is_ambiguous(tmp_path: Path) -> None:
    write_folder(tmp_path, png_contents())
    write_zip(tmp_path, png_contents())
    with pytest.raises(InputError, match="got both"):
        open_source(folder_section(), tmp_path)


def test_a_zip_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "pictures.zip").write_bytes(b"PK not really")
    with pytest.raises(InputError, match=rf"^{tmp_path}/pictures.zip: expected a zip archive"):
        open_source(folder_section(), tmp_path)


def test_real_kodak(tmp_path: Path) -> None:
    folder = real_file("kodak")
    (tmp_path / "pictures").mkdir()
    expected = []
    for path in sorted(folder.glob("*.png"))[:8]:
        (tmp_path / "pictures" / path.name).symlink_to(path)
        picture = np.asarray(Image.open(path))
        top, left = (picture.shape[0] - 64) // 2, (picture.shape[1] - 64) // 2
        expected.append(picture[top : top + 64, left : left + 64])
    source = open_source(folder_section(size=64), tmp_path)
    places = [positions(images_of(source, split), np.stack(expected)) for split in SPLITS]
    assert sorted(itertools.chain(*places)) == list(range(8))


def test_real_jpegs_in_a_zip(tmp_path: Path) -> None:
    (tmp_path / "pictures.zip").symlink_to(real_file("imagenet-sample/imagenet_sample_100_originals.zip"))
    source = open_source(folder_section(size=128, fit="resize", filter="lanczos", validation=10, test=10), tmp_path)
    assert [source.count(split) for split in SPLITS] == [80, 10, 10]
    assert images_of(source, "test").std() > 30


def test_real_grey_jpegs_among_coloured_ones(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(real_file("tiny-imagenet-200/tiny-imagenet-200-val.zip")) as whole,
        zipfile.ZipFile(tmp_path / "pictures.zip", "w") as part,
    ):
        for info in whole.infolist()[:303]:
            part.writestr(info, whole.read(info))
    source = open_source(folder_section(size=64, validation=50, test=100), tmp_path)
    assert [source.count(split) for split in SPLITS] == [150, 50, 100]
    images = np.concatenate([images_of(source, split) for split in SPLITS])
    grey = (images == images[..., :1]).all(axis=(1, 2, 3))
    assert 0 < grey.sum() < 30


def test_a_name_that_is_not_utf8_is_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path, png_contents())
    before = open_source(folder_section(), tmp_path)
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(encoded(PICTURES[0]))
    source = open_source(folder_section(), tmp_path)
    assert source.digest != before.digest
    assert sum(map(source.count, SPLITS)) == sum(map(before.count, SPLITS)) + 1
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"nothing")
    with pytest.raises(InputError, match="not an image") as caught:
        open_source(folder_section(), tmp_path)
    assert "caf\\udce9.png" in str(caught.value).encode().decode()


def test_a_linked_folder_inside_is_refused(tmp_path: Path) -> None:
    """Half of the pictures would be missing without a word."""
    write_folder(tmp_path, png_contents())
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    (tmp_path / "elsewhere").mkdir()
    (folder / "dog").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"/dog: expected a folder inside, got a link to one"):
        open_source(folder_section(), tmp_path)
