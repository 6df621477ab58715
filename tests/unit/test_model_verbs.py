"""`spn sample`, `score`, `info` and `card`: what they write, and mistakes in one line with exit status 2."""

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from bombs import npy_header, png
from experiment import codes_params, tiny_params
from matplotlib.figure import Figure
from model_files import loading_once, rgb_params, write_model
from PIL import Image
from source_files import random_images

import spn
from spn.cli import main
from spn.data.images import read_image_labels, read_images
from spn.tools.foreign import MADE, made_of


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Model files of a chain of two stages, and of a chain of codes."""
    folder = tmp_path_factory.mktemp("models")
    write_model(folder, rgb_params(), "depth")
    write_model(folder, codes_params(), "latent")
    with loading_once():
        yield folder / "results"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_conditional(folder: Path) -> Path:
    """Write a model file of a chain whose low bits are conditioned on the class."""
    raw = tiny_params()
    raw["stages"]["low"]["class_conditional"] = True
    return write_model(folder, raw, "depth")


def run(command: str, results: Path) -> int:
    verb, *rest = command.split()
    return main([verb, str(results), "--chain", "depth", *rest])


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.slow
def test_samples_in_every_form_are_those_of_python(results: Path, place: Path) -> None:
    for output in ("array.npy", "images.h5", "grid.png", "folder"):
        assert run(f"sample -n 3 --seed 7 --temperature high=0.8 low=0.5 -o {output}", results) == 0
    expected = spn.load(results, chain="depth").sample(3, seed=7, temperature={"high": 0.8, "low": 0.5})
    assert np.array_equal(np.load("array.npy"), expected)
    assert np.array_equal(read_images(Path("images.h5"))[0].numpy(), expected)
    pictures = sorted(Path("folder").iterdir())
    assert [each.name for each in pictures] == ["0000.png", "0001.png", "0002.png"]
    for picture, image in zip(pictures, expected, strict=True):
        with Image.open(picture) as opened:
            assert np.array_equal(np.array(opened) >> 4, image)
    assert not np.array_equal(expected, spn.load(results, chain="depth").sample(3, seed=7))


def test_a_strip_has_a_row_for_each_image_and_a_column_for_each_stage(results: Path, place: Path) -> None:
    assert run("sample -n 3 --strip -o strip.png", results) == 0
    width, height = size_of("strip.png")
    tile = 50  # 8 pixels enlarged to 48, and a gap
    assert (width // tile, height // tile) == (2, 3)


@pytest.mark.slow
def test_scores_are_those_of_python_as_table_csv_and_json(
    results: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("sample -n 3 -o folder", results)
    run("sample -n 3 -o array.npy", results)
    bits = spn.load(results, chain="depth").bits_per_dim(np.load("array.npy"))
    capsys.readouterr()
    assert run("score folder array.npy --format json --map maps.png --grid grid.png", results) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["picture"] for row in rows] == [
        *(f"folder/000{number}.png" for number in range(3)),
        *(f"array.npy[{number}]" for number in range(3)),
    ]
    assert [row["bits/dim"] for row in rows] == pytest.approx([*bits, *bits])
    assert all(row["high"] + row["low"] == pytest.approx(row["bits/dim"]) for row in rows)
    assert size_of("maps.png")[1] > 1.5 * size_of("maps.png")[0]  # one below the other
    assert size_of("grid.png") > (100, 100)
    assert run("score folder --format csv", results) == 0
    header, *lines = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header == ["picture", "bits/dim", "high", "low"]
    assert [float(line[1]) for line in lines] == pytest.approx(bits)
    assert run("score folder", results) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[-1].split()[:2] == ["mean", f"{bits.mean():.4f}"]


def test_the_likeliest_pictures_come_first_in_the_grid(
    results: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("spn.report.bits.show_picture", lambda axes, image, white, title: shown.append(title))
    run("sample -n 5 -o array.npy", results)
    assert run("score array.npy --grid grid.png", results) == 0
    figures = [float(title.split("\n")[1]) for title in shown]
    assert figures == sorted(figures)
    assert len(figures) == 5


@pytest.mark.slow
def test_sources_are_compared_with_what_is_made_of_the_first(
    results: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every figure is that of pictures that are made here by hand."""
    shown: list[str] = []
    monkeypatch.setattr("spn.report.bits.show_picture", lambda axes, image, white, title: shown.append(title))
    model = spn.load(results, chain="depth")
    own, other = model.sample(5, seed=1), model.sample(3, seed=2, temperature=2.0)
    np.save("own.npy", own)
    np.save("other.npy", other)
    assert run("score own.npy other.npy --sources sources.png", results) == 0
    assert size_of("sources.png") > (800, 600)
    table = capsys.readouterr().out.split("\n\n")[1].splitlines()
    rows = {line[:18].strip(): [float(each) for each in line[18:].split()] for line in table[2:]}
    shifted = own.copy()
    shifted[:, :, 1:] = own[:, :, :-1]
    constant = np.broadcast_to(np.array([0, 4, 8, 11, 15], np.uint8)[:, None, None, None], own.shape)
    made = {"mirrored": own[:, :, ::-1], "shifted by a pixel": shifted, "negative": 15 - own, "constant": constant}
    bits = {name: model.bits_per_dim(each) for name, each in ({"own.npy": own, "other.npy": other} | made).items()}
    assert rows.keys() == bits.keys() | {"pixels shuffled", "noise"}
    for name, each in bits.items():
        likelier = np.mean([(one < two) + (one == two) / 2 for one in each for two in bits["own.npy"]])
        count, *figures = rows[name]
        assert count == len(each)
        assert figures == pytest.approx([each.mean(), each.std(), 100 * likelier], abs=0.51)
        assert figures[:2] == pytest.approx([each.mean(), each.std()], abs=1e-3)
    assert len(shown) == 5 * 7 + 3
    assert shown[0] == f"{bits['own.npy'].min():.2f}"
    assert run("score own.npy --sources sources.png --format csv", results) == 0
    assert "source" not in capsys.readouterr().out


def test_sources_are_made_of_levels_up_to_white_alone() -> None:
    own = torch.tensor([0, 16, 17, 31], dtype=torch.uint8).view(1, 2, 2, 1)
    made = made_of(own, 16)
    assert made.keys() == {*MADE}
    assert made["negative"].flatten().tolist() == [16, 0, 0, 0]
    noise = made_of(torch.zeros(4, 8, 8, 1, dtype=torch.uint8), 3)["noise"]
    assert noise.unique().tolist() == [0, 1, 2, 3]


def test_names_that_are_not_utf8_are_shown(results: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder").mkdir()
    for name in (b"caf\xe9.png", b"other.png"):
        Image.new("RGB", (8, 8)).save(os.path.join(b"folder", name), format="png")
    assert run("score folder --map map.png --grid grid.png", results) == 0
    assert "folder/caf\\udce9.png" in capsys.readouterr().out


def test_a_folder_that_may_only_be_read_is_refused_at_once(
    results: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    assert run("sample -n 1 -o new/out.png", results) == 2
    expected = "spn: error: --output: expected a folder that can be written to, got . for new/out.png\n"
    assert capsys.readouterr().err == expected


def test_what_is_drawn_beside_a_model_may_be_drawn_again(results: Path, place: Path) -> None:
    shutil.copytree(results, "copy")
    folder = Path("copy/chains/depth")
    for _ in range(2):
        assert main(["sample", str(folder), "-n", "1", "-o", str(folder / "grid.png")]) == 0


def test_larger_pictures_are_fitted_if_asked(results: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (40, 24), (90, 160, 30)).save("large.png")
    assert run("score large.png", results) == 2
    expected = "spn: error: large.png: expected 8x8 pixels (width x height), got 40x24\n"
    assert capsys.readouterr().err.endswith(expected)
    assert run("score large.png --fit --format json", results) == 0
    (row,) = json.loads(capsys.readouterr().out)
    image = np.broadcast_to(np.array([90, 160, 30]) >> 4, (1, 8, 8, 3))
    assert row["bits/dim"] == pytest.approx(spn.load(results, chain="depth").bits_per_dim(image)[0])


def test_pictures_are_turned_as_those_of_training_are(
    results: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    picture = random_images(1, 8, 8, 3)[0]
    Image.fromarray(picture).save("turned.png", exif=exif)
    expected = spn.load(results, chain="depth").bits_per_dim(np.rot90(picture, -1)[None] >> 4)[0]
    for option in ("", "--fit"):
        assert run(f"score turned.png --format json {option}", results) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert row["bits/dim"] == pytest.approx(expected)


def test_bits_of_codes_and_bounds_are_called_so(results: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", str(results), "--chain", "latent", "-n", "2", "-o", "array.npy"])
    assert main(["score", str(results), "--chain", "latent", "array.npy"]) == 0
    assert "bits/code (upper bound)" in capsys.readouterr().out
    assert main(["info", str(results), "--chain", "latent"]) == 0
    shown = capsys.readouterr().out
    assert "its bits per code are no bits/dim of images" in shown
    assert "  bits/code  " in shown
    assert main(["card", str(results), "--chain", "latent"]) == 0
    assert 'metrics: ["bits_per_code"]' in capsys.readouterr().out


def test_the_card_in_the_terminal(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", results) == 0
    text = capsys.readouterr().out
    tiling = [
        "4 slices in raster order; bit 0 is the most significant of 4",
        "bits 0 to 1   A A A A",
        "bits 2 to 3   B B B B",
    ]
    assert all(line in text for line in tiling)
    for part in ("A high: spn, softmax law", "CC BY 2.0", "1.5000 ± 0.1000 bits/dim (exact, over 5 test images)"):
        assert part in text
    assert text.splitlines()[0].split() == ["chain", "depth,", "7", "parameters", "stored", "as", "float32"]


@pytest.mark.parametrize("name", ["x**y", "x[y", pytest.param("n" * 251, id="long")])
def test_outputs_may_have_any_name(name: str, results: Path, place: Path) -> None:
    assert run(f"sample -n 1 -o {name}.png", results) == 0
    assert [each.name for each in Path().iterdir()] == [f"{name}.png"]


def test_pictures_of_an_earlier_run_are_not_left_beside_new_ones(
    results: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sample -n 3 --seed 1 -o drawn", results) == 0
    before = {path: path.read_bytes() for path in Path("drawn").iterdir()}
    capsys.readouterr()
    for command in ("sample -n 2 --seed 2 -o drawn", "deepen drawn.npy --draws 2 -o drawn"):
        np.save("drawn.npy", np.zeros((1, 8, 8, 3), np.uint8))
        assert run(command, results) == 2
        expected = "spn: error: --output: expected no numbered pictures but the 2 to write, got drawn/0002.png\n"
        assert capsys.readouterr().err == expected
        assert {path: path.read_bytes() for path in Path("drawn").iterdir()} == before
    assert run("sample -n 3 --seed 2 -o drawn", results) == 0


def test_cards_for_hubs(results: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ruamel.yaml import YAML

    assert run("card", results) == 0
    card = capsys.readouterr().out
    assert run("card -o README.md", results) == 0
    assert Path("README.md").read_text() + "\n" == card
    assert run("card -o hub", results) == 0
    assert main(["info", "hub"]) == 0
    _, matter, text = Path("hub/README.md").read_text().split("---\n", 2)
    front = YAML(typ="safe").load(matter)
    assert front["library_name"] == "spn"
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 1.5
    assert "bits 0 to 1   A A A A" in text
    assert run("card -o hub", results) == 0  # the same model again


def test_the_card_of_a_conditional_chain_asks_for_a_class(tmp_path: Path, place: Path) -> None:
    path = write_conditional(tmp_path / "classes")
    assert main(["card", str(path), "-o", "hub"]) == 0
    _, matter, text = Path("hub/README.md").read_text().split("---\n", 2)
    assert "unconditional" not in matter
    example = (
        text.split("```python\n")[1].split("```")[0].replace("model.safetensors", f"{place}/hub/model.safetensors")
    )
    found: dict[str, Any] = {}
    exec(example, found)
    assert found["bits"].shape == (16,)


@pytest.mark.filterwarnings("error")
def test_transparency_is_ignored_without_a_warning(results: Path, place: Path) -> None:
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8)).convert("P")
    picture.save("palette.png", transparency=bytes([100, 200]))
    assert run("score palette.png", results) == 0


def test_cards_mark_bounds(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(results), "--chain", "latent"]) == 0
    assert re.search(r"codes2 +[0-9,]+ +≤ 1\.5", capsys.readouterr().out)


def test_pictures_of_likelihoods_state_what_they_show(
    results: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes have no bits/dim, and bounds are labelled."""
    figures: list[Figure] = []
    monkeypatch.setattr("spn.report.bits._save", lambda figure, path: figures.append(figure))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("one.png")
    assert main(["score", str(results), "--chain", "latent", "one.png", "--map", "map.png", "--grid", "grid.png"]) == 0
    maps, grid = figures
    assert re.fullmatch(r"[0-9.]+ bits/code \(upper bound\)", maps.axes[1].get_title())
    assert maps.axes[-1].get_ylabel() == "bits of a code"
    assert grid.get_supxlabel() == "bits/code (upper bound)"


def test_files_of_images_have_their_classes(tmp_path: Path, place: Path) -> None:
    path = str(write_conditional(tmp_path / "classes"))
    assert main(["sample", path, "-n", "12", "-o", "turns.h5"]) == 0
    assert main(["sample", path, "-n", "2", "--class", "3", "-o", "threes.h5"]) == 0
    assert main(["deepen", path, "--samples", "2", "--draws", "2", "-o", "draws.h5"]) == 0
    labels = [read_image_labels(Path(f"{name}.h5")) for name in ("turns", "threes", "draws")]
    expected = [[*range(10), 0, 1], [3, 3], [0, 0, 1, 1]]
    assert [None if each is None else each.tolist() for each in labels] == expected


def test_cards_are_written_over_nothing_else(results: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(results), "--chain", "latent", "-o", "hub"]) == 0
    for file in ("pages/README.md", "other/config.json"):
        Path(file).parent.mkdir()
        Path(file).write_text('{\n  "model_type": "bert"\n}\n')
    before = {path: path.read_bytes() for path in Path().rglob("*.*")}
    capsys.readouterr()
    for output, line in {
        "hub": "hub/model.safetensors: expected no model to write over but the same, got another",
        "pages": "pages/README.md: expected no file to write over but one that spn wrote for a model, got another",
        "pages/README.md": "pages/README.md: expected no file to write over but one that spn wrote for a model, got an",
        "other": "other/config.json: expected no file to write over but one that spn wrote for a model, got another",
    }.items():
        assert run(f"card -o {output}", results) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert told.startswith(f"spn: error: {line}")
        assert {path: path.read_bytes() for path in Path().rglob("*.*")} == before


MISTAKES = {
    "sample -n 2 -o out.jpg": "--output: expected .png, .npy, .h5, or a folder without a suffix, got out.jpg",
    "sample -n 2 --strip -o out.npy": "--output: expected .png for --strip, got out.npy",
    "sample -n 2 --temperature low -o out.png": "--temperature: expected a number or STAGE=NUMBER, got low",
    "sample -n 2 --temperature lo=1 -o out.png": "temperature: expected one of high, low, got lo",
    "sample -n 2 --temperature 0.5 low=1 -o out.png": "--temperature: expected one number or STAGE=NUMBER, got",
    "sample -n 2 --class 3 -o out.png": "label: expected none, because depth is conditioned on no class, got 3",
    "sample -n 2 --temperature low=1 high=1 low=2 -o out.png": "--temperature: expected each stage once, got low=1 hi",
    "sample -n 2 --temperature 0.5 0.7 -o out.png": "--temperature: expected one number or STAGE=NUMBER, got 0.5 0.7",
    "sample -n 2 --temperature =0.5 -o out.png": "--temperature: expected a number or STAGE=NUMBER, got =0.5",
    "sample -n 2 --device tpu -o out.png": "--device: expected auto, cpu, cuda or cuda:N, got tpu",
    "sample -n 2 --device meta -o out.png": "--device: expected auto, cpu, cuda or cuda:N, got meta",
    "sample -n 2 --device mps -o out.png": "--device: expected auto, cpu, cuda or cuda:N, got mps",
    "sample -n 2 --device cpu:5 -o out.png": "--device: expected auto, cpu, cuda or cuda:N, got cpu:5",
    "score nothing.png": "nothing.png: expected a picture: No such file or directory",
    "score empty": "empty: expected pictures (.png, .jpg, .jpeg, .webp, .bmp, ",
    "score text.npy": "text.npy: expected an array: ",
    "score zip.npy": "zip.npy: expected an array: ",
    "score header.npy": "header.npy: expected an array: ",
    "score huge.npy": "huge.npy: expected an array: ",
    "score text.txt": "text.txt: expected a picture, got another kind of file",
    "score short.ppm": "short.ppm: expected a whole picture, got: ",
    "score zeroes.jpg": "zeroes.jpg: expected a whole picture, got: ",
    "score large.png": "large.png: expected a whole picture, got: ",
    "score larger.png": "larger.png: expected a whole picture, got: ",
    "score pipe.png": "pipe.png: expected a file, got a named pipe",
    "score pipe.png --fit": "pipe.png: expected a file, got a named pipe",
    f"score {'n' * 300}": f"{'n' * 300}: expected a shorter name: File name too long",
    "score image.png --format xml": "--format: expected one of table, csv, json, got xml",
    "score image.png --map out.svg": "--map: expected a file ending in .png, got out.svg",
    "sample -n 2 --threads 100000 -o out.png": "--threads: expected at most 1,024, got 100,000",
    "sample -n 2 -o text.txt/out.png": "--output: expected a folder that can be written to, got text.txt for tex",
    "score image.png --map image.png": "--map: expected another file than those that are read, got image.png",
    "score image.png --grid text.txt/out.png": "--grid: expected a folder that can be written to, got text.txt for t",
    "score constant --sources out.png": "--sources: expected other names than those of the sources made here, got",
    "score image.png image.png --sources out.png": "--sources: expected different folders or arrays, got twice: image",
    f"score {'image.png ' * 13} --sources out.png": "--sources: expected at most 12 folders or arrays, got 13",
    "score image.png --map out.png --grid out.png": "--grid: expected another file than that of --map, got out.png",
    "score image.png --map empty/../out.png --sources ./out.png": "--sources: expected another file than that of --map",
    "card -o out.html": "--output: expected a file ending in .md, or a folder without a suffix, got out.html",
}


def damaged_files() -> None:
    """Write pictures and arrays that end early, claim any size, or are none."""
    Path("short.ppm").write_bytes(b"P5\n8 8")
    for name, side in (("large.png", 10_000), ("larger.png", 20_000)):
        Path(name).write_bytes(png(side, side))
    Image.fromarray(random_images(1, 8, 8, 3)[0]).save("zeroes.jpg")
    content = Path("zeroes.jpg").read_bytes()
    Path("zeroes.jpg").write_bytes(content[:-50] + bytes(48) + content[-2:])
    Path("header.npy").write_bytes(b"\x93NUMPY\x01\x00\x0a\x00{'descr':\n")
    Path("huge.npy").write_bytes(npy_header((9_999_999_999_999, 8, 8, 3)))
    os.mkfifo("pipe.png")


@pytest.mark.parametrize(("command", "line"), MISTAKES.items())
def test_mistakes(command: str, line: str, results: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("text.npy").write_text("no array")
    Path("zip.npy").write_bytes(b"PK\3\4" + bytes(16))
    Path("text.txt").write_text("no picture")
    damaged_files()
    Image.new("RGB", (8, 8)).save("image.png")
    assert run(command, results) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"spn: error: {line}")
    assert not list(Path().glob("out*"))


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "not enough memory for all that was asked for at once"),
        (MemoryError("of 1 TB"), 1, "not enough memory for all that was asked for at once: of 1 TB"),
        (torch.OutOfMemoryError("CUDA out of memory."), 1, "not enough memory for all that was asked for at once"),
    ],
)
def test_an_end_from_outside_is_told_in_one_line(
    error: BaseException,
    status: int,
    line: str,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ended(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("spn.api.ChainModel.sample_stages", ended)
    assert run("sample -n 2 -o out.png", results) == status
    assert capsys.readouterr().err == f"spn: error: {line}\n"


def test_another_error_of_torch_is_not_hidden(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spn.api.ChainModel.sample_stages", Mock(side_effect=RuntimeError("a mistake of ours")))
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        run("sample -n 2 -o out.png", results)


def test_a_model_of_a_name_that_is_too_long(capsys: pytest.CaptureFixture[str]) -> None:
    name = "n" * 300
    for verb in (["info"], ["sample", "-o", "out.png"]):
        assert main([verb[0], name, *verb[1:]]) == 2
        assert capsys.readouterr().err == f"spn: error: {name}: expected a shorter name: File name too long\n"


def test_a_reader_that_has_enough_is_no_error(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError

    with open("/dev/null", "w") as nowhere:
        monkeypatch.setattr("sys.stdout", nowhere)
        monkeypatch.setattr("spn.cli.run.print", closed, raising=False)
        assert run("info", results) == 0
