"""Coded pictures of any size: tiles, the file and its header, and what is refused by name."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_files import made_up_models, rgb_params, write_model

import spn
from spn import ChainModel
from spn.api import coding
from spn.codec import container
from spn.codec.tiles import Canvas, group_pictures
from spn.config import InputError

SIZES = ((8, 8), (19, 13), (5, 9), (16, 8), (8, 8))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChainModel]:
    """Chains with random weights."""
    return made_up_models(tmp_path_factory)


def pictures(sizes: tuple[tuple[int, int], ...] = SIZES) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 16, (*size, 3), dtype=np.uint8) for size in sizes]


SLOW = [("depth", False), ("raster", True)]


@pytest.mark.parametrize(
    ("name", "in_tiles"), [("raster", False), *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)]
)
def test_pictures_of_any_size_come_back(name: str, in_tiles: bool, models: dict[str, ChainModel]) -> None:
    model, given = models[name], pictures()
    coded = model.encode(given, in_tiles=in_tiles, images_per_stream=3)
    found = model.decode(coded.content, batch_size=5)
    assert all(np.array_equal(one, other) for one, other in zip(found, given, strict=True))
    assert coded.num_dims == sum(each.size for each in given)
    streams = 8 * sum(len(chunk.content) for chunk in container.unpack(coded.content)[1])
    assert 0 <= streams - coded.ideal_bits <= 64 * coded.num_streams
    # 5 bytes of magic and format, 38 of fixed fields, 4 of each checksum, 9 for each stream; sizes take some more.
    assert coded.bits_per_dim * coded.num_dims - streams <= 8 * (51 + 9 * coded.num_streams + 60)


def test_every_stream_is_decoded_with_its_own_offset(
    models: dict[str, ChainModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["depth"]
    images = model.sample(4, seed=3)
    with monkeypatch.context() as patch:
        patch.setattr("spn.codec.rounding.GUARD", 2e-6)  # so wide that some streams need an offset
        coded = model.encode(images, images_per_stream=1)
    assert len({chunk.offset for chunk in container.unpack(coded.content)[1]}) > 1
    assert np.array_equal(model.decode(coded.content), images)


def test_images_come_back_as_an_array_and_cost_their_likelihood(models: dict[str, ChainModel]) -> None:
    model = models["depth"]
    images = model.sample(6, seed=3)
    coded = model.encode(torch.from_numpy(images))
    assert np.array_equal(model.decode(coded.content), images)
    bits = float(model.bits_per_dim(images, exact=True).mean())
    assert coded.likelihood_bits_per_dim == pytest.approx(bits, rel=1e-10)
    assert coded.ideal_bits / coded.num_dims == pytest.approx(bits, rel=1e-3)


def test_the_figures_of_several_streams_add_up(models: dict[str, ChainModel]) -> None:
    model = models["depth"]
    images = model.sample(4, seed=3)
    one, many = (model.encode(images, images_per_stream=count) for count in (4, 1))
    assert (one.num_streams, many.num_streams) == (1, 4)
    assert many.nats == pytest.approx(one.nats, rel=1e-10)
    assert many.ideal_bits == pytest.approx(one.ideal_bits, rel=1e-3)


def test_classes_lie_in_the_file(models: dict[str, ChainModel]) -> None:
    model = models["classes"]
    images = model.sample(4, seed=1)
    coded = model.encode(images, label=[3, 1, 4, 1])
    assert np.array_equal(model.decode(coded.content), images)
    assert container.unpack_header(coded.content)[0].labels == [3, 1, 4, 1]
    bits = float(model.bits_per_dim(images, label=[3, 1, 4, 1], exact=True).mean())
    assert coded.likelihood_bits_per_dim == pytest.approx(bits, rel=1e-10)
    with pytest.raises(InputError, match=r"^label: expected the classes of the images"):
        model.encode(images)


def test_tiles_cover_every_pixel_once() -> None:
    (group,) = group_pictures(SIZES, (8, 8), 4, 3)
    canvas = Canvas([torch.zeros((*size, 3), dtype=torch.uint8) for size in SIZES], 8, 8)
    covered = [torch.zeros(size, dtype=torch.int64) for size in SIZES]
    for wave in group.waves:
        assert max(map(len, wave)) <= 3
        _, before = canvas.cut([tile for tiles in wave for tile in tiles])
        known = []
        for tiles in wave:
            images, knows = canvas.cut(tiles)
            known.append(knows)
            canvas.put(tiles, images)
            for tile, here in zip(tiles, knows, strict=True):
                rows, columns = SIZES[tile.picture]
                inside = slice(tile.top, tile.top + 8), slice(tile.left, tile.left + 8)
                covered[tile.picture][inside] += ~here[: rows - tile.top, : columns - tile.left]
        assert torch.equal(torch.cat(known), before)  # no tile waits for another of its wave
    assert all((each == 1).all() for each in covered)


def test_whole_pictures_are_grouped_by_their_rounded_size() -> None:
    groups = group_pictures(SIZES, (0, 0), 8, 64)
    assert [(group.tile, group.numbers) for group in groups] == [
        ((8, 8), [0, 4]),
        ((24, 16), [1]),
        ((8, 16), [2]),
        ((16, 8), [3]),
    ]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another kind": (lambda whole: b"PNG" + whole, "expected a file of coded pictures, .* got another kind of file"),
    "nothing": (lambda whole: b"", "expected a file of coded pictures, .* got another kind of file"),
    "the start of a header": (lambda whole: whole[:20], "expected a whole header, got the start of one: cut off"),
    "half a header": (lambda whole: whole[:60], "expected the header that was written, got another: damaged or cut"),
    "cut off": (lambda whole: whole[:-1], "expected the bytes that were written, got others: damaged or cut off"),
    "something after it": (lambda whole: whole + b"x", "expected the bytes that were written, got others"),
    "a bit of a stream": (
        lambda whole: whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:],
        "expected the bytes that were written, got others",
    ),
    "another format": (
        lambda whole: whole[:4] + b"\x01" + whole[5:],
        "expected format 2, got 1: written by another version of spn",
    ),
}


@pytest.mark.parametrize(("change", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_refused_by_name(
    change: Callable[[bytes], bytes], message: str, models: dict[str, ChainModel]
) -> None:
    model = models["raster"]
    content = model.encode(pictures(((8, 8), (4, 4)))).content
    with pytest.raises(InputError, match=f"^{message}"):
        model.decode(change(content))


def test_tables_of_another_version_are_refused(models: dict[str, ChainModel], monkeypatch: pytest.MonkeyPatch) -> None:
    content = models["raster"].encode(pictures(((8, 8),))).content
    monkeypatch.setattr(container, "tables_digest", lambda: b"\1" * 32)
    with pytest.raises(InputError, match=r"^expected the tables of this version of spn, got others"):
        models["raster"].decode(content)


def test_another_model_is_refused(models: dict[str, ChainModel], tmp_path: Path) -> None:
    content = models["depth"].encode(pictures(((8, 8),))).content
    with pytest.raises(InputError, match=r"^expected pictures that were coded with .*, a model of digest [0-9a-f]{16}"):
        models["raster"].decode(content)


def test_pixels_that_are_decoded_otherwise_are_refused(models: dict[str, ChainModel]) -> None:
    """A machine whose arithmetic is far off, or a stream with a wrong offset, under sound checksums of the file."""
    model = models["raster"]
    header, chunks = container.unpack(model.encode(pictures(((8, 8),))).content)
    wrong = [container.Chunk((chunk.offset + 77) % 256, chunk.pixels_crc, chunk.content) for chunk in chunks]
    with pytest.raises(InputError, match=r"^expected pixels of CRC-32 [0-9a-f]{8} in stream 1, got [0-9a-f]{8}: this "):
        model.decode(container.pack(header, wrong))


@pytest.mark.parametrize(
    ("name", "message"),
    [("latent", "expected a chain of pixels, got latent, whose codes keep no picture exactly")],
)
def test_chains_that_code_nothing_exactly_are_refused(name: str, message: str, models: dict[str, ChainModel]) -> None:
    model = models[name]
    with pytest.raises(InputError, match=f"{message}$"):
        model.encode(model.sample(1, seed=1))


def test_a_bound_is_refused(tmp_path: Path) -> None:
    raw: dict[str, Any] = rgb_params()
    raw["stages"]["raster"]["model"] |= {"law": "dequantised"}
    model = spn.load(write_model(tmp_path / "bound", raw, "raster"))
    with pytest.raises(InputError, match=r"expected a chain with an exact likelihood, got raster, whose"):
        model.encode(pictures(((8, 8),)))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((8, 8), np.uint8), r"picture: expected \[H, W, 3\], got \[8, 8\]"),
        (np.zeros((8, 8, 1), np.uint8), r"picture: expected \[N, 8, 8, 3\], N > 0, got \[1, 8, 8, 1\]"),
        (np.full((8, 8, 3), 16, np.uint8), r"picture: expected levels 0 to 15 \(4 bits\), got 16"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(picture: Any, message: str, models: dict[str, ChainModel]) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        models["raster"].encode([picture])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"names": ["a.png", "a.bmp"]},
            "names: expected one for each of 2 pictures, all different without .*, got 1 in 2",
        ),
        ({"names": ["a.png"]}, "names: expected one for each of 2 pictures, all different without .*, got 1 in 1"),
        ({"names": ["a.png", "x/b.png"]}, "names: expected names of files without folders, got 'x/b.png'"),
        ({"images_per_stream": 0}, "images_per_stream: expected 1 to 65,535, got 0"),
        ({"images_per_stream": 1 << 16}, "images_per_stream: expected 1 to 65,535, got 65,536"),
    ],
)
def test_options_that_no_file_can_hold_are_refused(
    options: dict[str, Any], message: str, models: dict[str, ChainModel]
) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        models["raster"].encode(pictures(((8, 8), (5, 9))), **options)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("names", 5, "'int' object is not iterable"),
        ("names", [["a"], ["b"]], "names of another type"),
        ("labels", ["a"], "labels of another type"),
        ("labels", [[1, "a"]], "labels of another type"),
        ("greys", [None], "greys of another type"),
    ],
)
def test_headers_of_other_types_are_refused(name: str, value: Any, message: str, models: dict[str, ChainModel]) -> None:
    header, chunks = container.unpack(models["raster"].encode(pictures(((8, 8), (8, 8)))).content)
    object.__setattr__(header, name, value)
    with pytest.raises(InputError, match=f"^expected the pictures' sizes and names in the header, got: {message}$"):
        models["raster"].decode(container.pack(header, chunks))


@pytest.mark.parametrize("labels", [[3, 0], [[1, 2], [0, 2]]], ids=["classes", "captions"])
def test_classes_and_captions_come_back(labels: list[Any], models: dict[str, ChainModel]) -> None:
    header, chunks = container.unpack(models["raster"].encode(pictures(((8, 8), (8, 8)))).content)
    object.__setattr__(header, "labels", labels)
    assert container.unpack(container.pack(header, chunks))[0].labels == labels


@pytest.mark.parametrize("rest", [b"5", b'{"sizes": [[8, 8]], "count": Infinity}', b"[" * 100_000])
def test_headers_of_another_kind_are_refused(rest: bytes, models: dict[str, ChainModel]) -> None:
    content = models["raster"].encode(pictures(((8, 8),))).content
    start = len(container.MAGIC) + 1
    fixed = list(container._FIXED.unpack_from(content, start))
    middle = start + container._FIXED.size + fixed[0]
    packed = zlib.compress(rest)
    fixed[-1] = len(packed)
    begin = content[:start] + container._FIXED.pack(*fixed) + content[middle - fixed[0] : middle] + packed
    with pytest.raises(InputError, match=r"^expected the pictures' sizes and names in the header, got"):
        container.unpack_header(begin + container._CRC.pack(zlib.crc32(begin)))


def test_stages_may_have_any_scale_factors(tmp_path: Path) -> None:
    """Such as 3 and 4, of which neither divides the other."""
    raw: dict[str, Any] = rgb_params()
    raw["data"] |= {"size": 12}
    network = {"family": "gated_pixelcnn", "width": 6, "layers": 1, "embedder_layers": 1}
    for name, factor in (("high", 3), ("low", 4)):
        raw["stages"][name] |= {"scale_factor": factor, "model": network}
    del raw["stages"]["raster"], raw["chains"]["raster"]
    model = spn.load(write_model(tmp_path / "odd", raw, "depth"))
    given = pictures(((12, 12), (7, 13)))
    found = model.decode(model.encode(given).content)
    assert all(np.array_equal(one, other) for one, other in zip(found, given, strict=True))


FAMILIES = {
    "spn": {"width": 4, "heads": 1, "transformer_layers": 0, "pixelcnn_width": 6, "pixelcnn_layers": 1},
    "gated_pixelcnn": {"width": 6, "layers": 1},
    "pixelcnn_pp": {"filters": 4, "resnets": 1},
    "pixelsnail": {"width": 4, "blocks": 1, "key_width": 2, "value_width": 2},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_codes_pictures_of_another_size(family: str, tmp_path: Path) -> None:
    raw = rgb_params()
    raw["stages"] = {"raster": raw["stages"]["raster"] | {"model": {"family": family} | FAMILIES[family]}}
    raw["chains"] = {"raster": raw["chains"]["raster"]}
    model = spn.load(write_model(tmp_path / "odd", raw, "raster"))
    given = pictures(((9, 12),))
    (found,) = model.decode(model.encode(given).content)
    assert np.array_equal(found, given[0])


@pytest.mark.slow
def test_a_thousand_damages_are_noticed(models: dict[str, ChainModel]) -> None:
    """Flipped bits, lost and doubled bytes anywhere: each is refused, and nothing is decoded."""
    model = models["raster"]
    content = model.encode(pictures(((8, 8), (5, 9))), names=["one.png", "two.png"]).content
    generator = np.random.default_rng(1)
    for number in range(1000):
        damaged, place = bytearray(content), int(generator.integers(len(content)))
        if number % 4 == 0:
            del damaged[place : place + 1 + number % 7]
        elif number % 4 == 1:
            damaged[place:place] = damaged[place : place + 1]
        else:
            damaged[place] ^= 1 << int(generator.integers(8))
        if bytes(damaged) == content:
            continue
        with pytest.raises(InputError):
            model.decode(bytes(damaged))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["depth", "raster"])
def test_a_hostile_file_under_sound_checksums_is_refused(name: str, models: dict[str, ChainModel]) -> None:
    """What an attacker can make: sizes that nobody has memory for, and streams that are missing or too many."""
    model = models[name]
    header, chunks = container.unpack(model.encode(pictures(((8, 8),))).content)
    for change in ({"sizes": [(1 << 20, 1 << 20)] * 1000}, {"channels": 200}, {"tile": (7, 7)}, {"bits": 2}):
        with pytest.raises(InputError):
            model.decode(container.pack(container.Header(**(vars(header) | change)), chunks))
    with pytest.raises(InputError):
        model.decode(container.pack(header, chunks[:-1]))
    with pytest.raises(InputError):
        model.decode(container.pack(header, chunks * 2))


def test_the_header_is_small(models: dict[str, ChainModel]) -> None:
    content = models["raster"].encode(pictures(((8, 8),))).content
    _, size = container.unpack_header(content)
    assert size <= 90
    assert struct.unpack("<I", content[-4:])[0] == zlib.crc32(content[:-4])
    assert coding.IMAGES_PER_STREAM == 64
