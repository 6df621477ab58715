"""`spn encode` and `spn decode`: every kind of picture comes back, everything else is refused in one line."""

import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from experiment import tiny_params
from model_files import PP, loading_once, rgb_params, write_model
from PIL import Image, PngImagePlugin
from source_files import deep_rgb

import spn
from spn.cli import main
from spn.codec import container


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model of RGB images of 8 bits and 8x8 pixels, made of convolutions alone, with random weights."""
    raw = rgb_params()
    raw["data"]["bits"] = 8
    raw["stages"]["raster"] |= {"bits": [0, 8], "model": dict(PP)}
    raw["stages"] = {"raster": raw["stages"]["raster"]}
    raw["chains"] = {"raster": {"stages": ["raster"]}}
    with loading_once():
        yield write_model(tmp_path_factory.mktemp("rgb"), raw, "raster")


@pytest.fixture(scope="module")
def coded(model: Path) -> bytes:
    """A coded picture."""
    return spn.load(model).encode([noise(8, 8, 3)]).content


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 256, shape, dtype=np.uint8)


def run(text: str) -> int:
    return main(shlex.split(text))


def save_every_kind(folder: Path) -> dict[str, np.ndarray]:
    """Write pictures of every kind that is coded; return their pixels by name."""
    folder.mkdir()
    colours, grey = noise(9, 13, 3), noise(5, 8)
    Image.fromarray(colours).save(folder / "a.png")
    Image.fromarray(colours[:4]).save(folder / "b.bmp")
    Image.fromarray(colours[2:]).save(folder / "c.tif")
    Image.fromarray(colours[:, 5:]).save(folder / "d.ppm")
    Image.fromarray(grey).save(folder / "e.png")
    palette = Image.fromarray(grey % 7).convert("P")
    palette.putpalette(noise(21).tolist())
    palette.save(folder / "f.png")
    Image.fromarray(grey > 100).save(folder / "g.png")
    (folder / "h.ppm").write_text("P1 4 2 0 1 1 0 1 0 0 1")
    pixels = {name: colours for name in ("a",)} | {"b": colours[:4], "c": colours[2:], "d": colours[:, 5:], "e": grey}
    with Image.open(folder / "f.png") as opened:
        pixels["f"] = np.array(opened.convert("RGB"))
    plain = np.array([[255, 0, 0, 255], [0, 255, 255, 0]], np.uint8)
    return pixels | {"g": np.where(grey > 100, 255, 0).astype(np.uint8), "h": plain}


@pytest.mark.slow
@pytest.mark.parametrize("tiles", ["", "--tiles"])
def test_pictures_of_every_kind_come_back(
    tiles: str, model: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = save_every_kind(place / "pictures")
    assert run(f"encode {model} pictures -o coded.spn {tiles}") == 0
    said = capsys.readouterr().out.splitlines()
    size = (place / "coded.spn").stat().st_size
    assert said[0].startswith(f"8 pictures, 1,380 sub-pixels: {size:,} bytes, ")
    assert said[1].startswith(f"of its {8 * size:,} bits the likelihood states ")
    assert run(f"decode {model} coded.spn -o decoded --batch-size 3") == 0
    assert sorted(each.name for each in (place / "decoded").iterdir()) == [f"{name}.png" for name in pixels]
    for name, expected in pixels.items():
        with Image.open(place / f"decoded/{name}.png") as opened:
            assert np.array_equal(np.array(opened), expected), name
    capsys.readouterr()
    assert run("info coded.spn") == 0
    told = capsys.readouterr().out
    assert "8, each as a whole; RGB, 8 bits" in told or "8, in tiles of 8x8; RGB, 8 bits" in told
    assert "  a.png: 13x9\n" in told
    assert "  e.png: 8x5, grey\n" in told


def test_what_is_left_out_is_named(model: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Description", "what it shows")
    info.add_text("Red\x1b[31m", "what no terminal should obey")
    exif = Image.Exif()
    exif[274] = 6  # to be turned when shown; the pixels are coded as they are stored
    Image.fromarray(noise(4, 8, 3)).save(place / "a.png", icc_profile=b"profile", exif=exif, pnginfo=info)
    assert run(f"encode {model} a.png -o coded.spn") == 0
    assert capsys.readouterr().out.startswith(
        "a.png: left out: colour profile, EXIF, text Description, text Red\\x1b[31m\n"
    )
    assert run(f"decode {model} coded.spn -o decoded") == 0
    with Image.open("decoded/a.png") as opened:
        assert opened.size == (8, 4)


def test_what_a_folder_has_besides_is_named(model: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "folder/inside").mkdir(parents=True)
    Image.fromarray(noise(4, 4, 3)).save(place / "folder/a.png")
    for number in range(10):
        Image.fromarray(noise(4, 4, 3)).save(place / f"folder/{number}.jpg")
    assert run(f"encode {model} folder -o coded.spn") == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    names = ", ".join(f"{number}.jpg" for number in range(10))
    assert first == f"folder: left out: {names} and 1 more (coded are .png, .bmp, .tif, .tiff, .ppm, .pgm)"
    assert "-0.0" not in last
    assert last.endswith(" bits")


def test_coded_pictures_are_replaced(model: Path, place: Path) -> None:
    Image.fromarray(noise(4, 4, 3)).save(place / "a.png")
    assert [run(f"encode {model} a.png -o coded.spn") for _ in range(2)] == [0, 0]


def test_levels_of_fewer_bits_come_back(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grey = write_model(place / "grey", tiny_params(), "depth")
    levels = torch.arange(64).view(8, 8) % 17
    Image.fromarray(((levels * 255 + 8) // 16).byte().numpy()).save("levels.png")
    assert run(f"encode {grey} levels.png -o coded.spn") == 0
    assert run(f"decode {grey} coded.spn -o decoded") == 0
    with Image.open("levels.png") as given, Image.open("decoded/levels.png") as found:
        assert np.array_equal(np.array(given), np.array(found))
    capsys.readouterr()
    Image.fromarray(noise(8, 8)).save("other.png")
    assert run(f"encode {grey} other.png -o other.spn") == 2
    assert capsys.readouterr().err == (
        "spn: error: other.png: expected the 17 brightnesses of the model's levels of 5 bits, from 0 to 255 in equal "
        "steps, got others between them\n"
    )
    Image.fromarray(noise(8, 8, 3)).save("rgb.png")
    assert run(f"encode {grey} rgb.png -o other.spn") == 2
    assert "rgb.png: expected a grey picture, as the model's images are, got one of RGB" in capsys.readouterr().err


MISTAKES = {
    "encode MODEL missing.png -o x.spn": "missing.png: expected a picture, found no file",
    "encode MODEL text.png -o x.spn": "text.png: expected a whole picture (PNG, BMP, TIFF, PPM), got: cannot identify",
    "encode MODEL cut.png -o x.spn": "cut.png: expected a whole picture (PNG, BMP, TIFF, PPM), got: ",
    "encode MODEL alpha.png -o x.spn": "alpha.png: expected a picture without transparency, got one with",
    "encode MODEL deep.png -o x.spn": "deep.png: expected grey or RGB of at most 8 bits, got mode I;16",
    "encode MODEL deep_rgb.png -o x.spn": "deep_rgb.png: expected grey or RGB of at most 8 bits, got more",
    "encode MODEL deep_rgb.ppm -o x.spn": "deep_rgb.ppm: expected grey or RGB of at most 8 bits, got more",
    "encode MODEL deep_rgb.tif -o x.spn": "deep_rgb.tif: expected grey or RGB of at most 8 bits, got more",
    "encode MODEL deep_rgb_plain.ppm -o x.spn": "deep_rgb_plain.ppm: expected grey or RGB of at most 8 bits, got more",
    "encode MODEL frames.tif -o x.spn": "frames.tif: expected one frame, got 2",
    "encode MODEL turned.tif -o x.spn": "turned.tif: expected a TIFF that is stored as it is shown (orientation 1)",
    "encode MODEL white100.pgm -o x.spn": "white100.pgm: expected a PPM of levels 0 to 255, got 0 to 100",
    "encode MODEL white100_plain.pgm -o x.spn": "white100_plain.pgm: expected a PPM of levels 0 to 255, got 0 to 100",
    "encode MODEL photo.jpg -o x.spn": "photo.jpg: expected a whole picture (PNG, BMP, TIFF, PPM), got: cannot",
    "encode MODEL empty -o x.spn": "empty: expected pictures (.png, .bmp, .tif, .tiff, .ppm, .pgm), found none",
    "encode MODEL good.png good.bmp -o x.spn": "good.bmp: expected pictures of different names, got the",
    "encode MODEL good.png --class 1 -o x.spn": "label: expected none, because raster is conditioned on no class",
    "decode MODEL missing.spn -o x": "missing.spn: expected a file of coded pictures: No such file or directory",
    "decode MODEL text.png -o x": "text.png: expected a file of coded pictures, as `spn encode` writes it, got another",
    "decode OTHER coded.spn -o x": "coded.spn: expected pictures that were coded with ",
    "encode MODEL good.png -o good.bmp": "--output: expected a new file, or one of coded pictures, got another kind of",
    "encode MODEL good.png -o MODEL": "--output: expected another file than those that are read, got ",
    "encode MODEL good.png -o empty": "--output: expected a file to write, got a folder: empty",
    "encode MODEL good.png -o text.png/x.spn": "--output: expected a folder that can be written to, got text.png for",
    "decode MODEL coded.spn -o text.png": "--output: expected a folder to write, got a file: text.png",
    "decode MODEL coded.spn -o text.png/x/y": "--output: expected a folder that can be written to, got ",
    "info missing.spn": "missing.spn: expected a model or a file of coded pictures, found none",
    "info cut.spn": "cut.spn: expected the bytes that were written, got others: damaged or cut off",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes(text: str, model: Path, coded: bytes, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = Image.fromarray(noise(8, 8, 3))
    for name in ("good.png", "good.bmp"):
        good.save(name)
    Image.fromarray(noise(32, 32, 3)).save("photo.jpg", format="JPEG")
    Image.fromarray(noise(8, 8, 4)).save("alpha.png")
    Image.fromarray(noise(8, 8).astype(np.uint16) * 3).save("deep.png")
    for name, content in deep_rgb(8, 8).items():
        (place / name).write_bytes(content)
    good.save("frames.tif", save_all=True, append_images=[good])
    good.save("turned.tif", tiffinfo={274: 6})
    (place / "white100.pgm").write_bytes(b"P5 2 2 100\n\x00\x01\x32\x64")
    (place / "white100_plain.pgm").write_text("P2 2 2 100\n0 1 50 100\n")
    (place / "text.png").write_text("no picture")
    (place / "cut.png").write_bytes((place / "good.png").read_bytes()[:100])
    (place / "empty").mkdir()
    (place / "coded.spn").write_bytes(coded)
    (place / "cut.spn").write_bytes(coded[:-3])
    said = MISTAKES[text]
    if "OTHER" in text:
        other = write_model(place / "other", tiny_params(), "depth")
        text = text.replace("OTHER", str(other))
    capsys.readouterr()
    assert run(text.replace("MODEL", str(model))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"spn: error: {said}")
    assert not any(Path(name).exists() for name in ("x.spn", "x"))


def test_decoding_writes_over_no_other_picture(model: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such as the very pictures that were coded, which may hold more than their pixels."""
    Path("pictures").mkdir()
    for name in ("first.png", "second.png"):
        Image.fromarray(noise(4, 4, 3)).save(f"pictures/{name}", dpi=(300, 300))
    before = {path: path.read_bytes() for path in Path("pictures").iterdir()}
    assert run(f"encode {model} pictures -o pictures.spn") == 0
    capsys.readouterr()
    assert run(f"decode {model} pictures.spn -o pictures") == 2
    # On a slow machine after a bar of progress.
    assert capsys.readouterr().err.splitlines()[-1] == (
        "spn: error: --output: expected no picture to write over but the same, got another pictures/first.png"
    )
    assert {path: path.read_bytes() for path in Path("pictures").iterdir()} == before
    for _ in range(2):
        assert run(f"decode {model} pictures.spn -o decoded") == 0


def test_names_are_shown_without_control_characters(
    model: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor with bytes that are no UTF-8, which a terminal of UTF-8 could not print."""
    folder = place / os.fsdecode(b"odd\xff")
    folder.mkdir()
    name = os.fsdecode(b"\x1b[31m\xfe.png")
    Image.fromarray(noise(4, 4, 3)).save(folder / name, icc_profile=b"profile")
    (folder / "notes.txt").write_text("notes")
    assert main(["encode", str(model), str(folder), "-o", "odd.spn"]) == 0
    assert run("info odd.spn") == 0
    said = capsys.readouterr().out
    said.encode()
    assert "\x1b" not in said
    assert "\\x1b[31m\\udcfe.png: left out: colour profile" in said
    assert "\\x1b[31m\\udcfe.png: 4x4" in said
    assert "odd\\udcff: left out: notes.txt" in said


@pytest.mark.parametrize("name", ["../escape.png", "/tmp/escape.png", "..", ".", "a/b.png", ""])
def test_names_that_lead_out_of_the_folder_are_refused(
    name: str, model: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, chunks = container.unpack(spn.load(model).encode([noise(4, 4, 3)]).content)
    (place / "coded.spn").write_bytes(container.pack(replace(header, names=[name]), chunks))
    assert run(f"decode {model} coded.spn -o decoded") == 2
    assert (
        capsys.readouterr().err
        == f"spn: error: coded.spn: names: expected names of files without folders, got {name!r}\n"
    )
    assert not (place / "decoded").exists()
