"""`spn upscale`, `deepen` and `inpaint`: they write what Python draws, and tell mistakes in one line, status 2."""

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bombs import png
from experiment import codes_params, tiny_params
from model_files import loading_once, rgb_params, write_model
from PIL import Image
from source_files import deep_rgb

import spn
from spn.cli import main

HIGH = 0b1100


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Model files of a chain of size and depth, of a raster, of codes, and of grey images with 17 levels."""
    folder, raw = tmp_path_factory.mktemp("models"), rgb_params()
    stages = {"first_high": "first", "rest_high": "rest"}
    raw["stages"] |= {name: raw["stages"]["high"] | {"slices": slices} for name, slices in stages.items()}
    raw["chains"]["both"] = {"stages": [*stages, "low"]}
    for chain in ("both", "raster"):
        write_model(folder, raw, chain)
    write_model(folder, codes_params(), "latent")
    write_model(folder / "grey", tiny_params(), "depth")
    with loading_once():
        yield folder / "results"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make pictures of the model's levels, of its size and of half of it, a mask, and a photograph."""
    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(1)
    for name, size in (("one", 8), ("two", 8), ("small", 4)):
        save(f"{name}.png", draws.integers(0, 16, (size, size, 3)) * 17)
    save("mask.png", draws.integers(0, 2, (8, 8)) * 255)
    save("photo.png", draws.integers(0, 256, (20, 30, 3)))
    save("deep.png", draws.integers(0, 256, (8, 8, 3)))
    return tmp_path


def save(name: str, pixels: Any) -> None:
    Image.fromarray(pixels.astype(np.uint8)).save(name)


def levels(name: str) -> Any:
    with Image.open(name) as picture:
        return np.array(picture.convert("RGB")) >> 4


def pixels(name: str) -> Any:
    with Image.open(name) as picture:
        return np.array(picture)


def run(command: str, results: Path, chain: str = "both") -> int:
    verb, *rest = command.split()
    return main([verb, str(results), "--chain", chain, *rest])


def test_upscaled_pictures_sub_sampled_are_the_pictures(results: Path, place: Path) -> None:
    assert run("upscale small.png --draws 3 --seed 7 -o folder", results) == 0
    assert run("upscale --draws 3 --seed 7 small.png -o array.npy", results) == 0
    drawn = sorted(Path("folder").iterdir())
    assert len(drawn) == 3
    for each in drawn:
        assert np.array_equal(pixels(str(each))[::2, ::2], pixels("small.png"))
    expected = spn.load(results, chain="both").upscale(levels("small.png")[None], draws=3, seed=7)
    assert np.array_equal(np.load("array.npy"), expected[:, 0])
    assert run("upscale small.png", results) == 0
    grid = pixels("upscaled.png")
    assert (grid.shape[1] // 50, grid.shape[0] // 50) == (5, 1)  # the picture and four draws, 8 pixels enlarged to 48
    tile = grid[2:50:6, 2:50:6]
    assert np.array_equal(tile, pixels("small.png").repeat(2, 0).repeat(2, 1))


def test_draws_of_several_pictures_follow_each_other(results: Path, place: Path) -> None:
    assert run("deepen one.png two.png --draws 2 --seed 3 -o array.npy", results) == 0
    given = np.stack([levels("one.png"), levels("two.png")])
    expected = spn.load(results, chain="both").deepen(given, draws=2, seed=3)
    assert np.array_equal(np.load("array.npy").reshape(2, 2, 8, 8, 3), expected.swapaxes(0, 1))
    assert np.array_equal(np.load("array.npy") & HIGH, given.repeat(2, 0) & HIGH)


@pytest.mark.slow
def test_samples_of_the_first_stages_need_no_picture(results: Path, place: Path) -> None:
    model = spn.load(results, chain="both")
    for verb, method in (("upscale", model.upscale), ("deepen", model.deepen)):
        assert run(f"{verb} --samples 2 --draws 3 --seed 5 -o array.npy", results) == 0
        expected = method(num_images=2, draws=3, seed=5)
        assert np.array_equal(np.load("array.npy").reshape(2, 3, 8, 8, 3), expected.swapaxes(0, 1))


def test_inpainted_pictures_keep_what_is_known(results: Path, place: Path) -> None:
    hidden = pixels("mask.png") > 0
    assert run("inpaint one.png two.png --mask mask.png --draws 2 -o folder", results) == 0
    drawn = sorted(Path("folder").iterdir())
    assert len(drawn) == 4
    for number, each in enumerate(drawn):
        given = pixels(("one.png", "two.png")[number // 2])
        assert np.array_equal(pixels(str(each))[~hidden], given[~hidden])
        assert (pixels(str(each)) != given)[hidden].mean() > 0.5
    assert run("inpaint one.png --mask lower --draws 1 -o array.npy", results) == 0
    assert np.array_equal(np.load("array.npy")[0, :4], levels("one.png")[:4])


@pytest.mark.slow
def test_the_likeliest_draw_is_picked_and_its_log_likelihood_printed(
    results: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "inpaint one.png two.png --mask mask.png --draws 3 --seed 2"
    assert run(f"{command} -o every.npy", results) == 0
    assert capsys.readouterr().out == ""
    assert run(f"{command} --pick likelihood -o picked.npy", results) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    every = np.load("every.npy")
    nats = spn.load(results, chain="both").nats(every).reshape(2, 3)
    assert np.array_equal(np.load("picked.npy"), every.reshape(2, 3, 8, 8, 3)[[0, 1], nats.argmin(1)])
    assert header.split("  ")[0] == "picture"
    assert "log-likelihood (nats)" in header
    assert len(rows) == 2
    for number, row in enumerate(rows):
        name, *chosen, log_likelihood, bits, least = row.split()
        assert name == ("one.png", "two.png")[number]
        assert " ".join(chosen) == f"{nats[number].argmin() + 1} of 3"
        assert float(log_likelihood) == pytest.approx(-nats[number].min(), abs=2e-3)
        assert float(bits) == pytest.approx(nats[number].min() / np.log(2) / 192, abs=1e-4)
        assert float(least) == pytest.approx(-nats[number].max(), abs=2e-3)


@pytest.mark.slow
def test_larger_and_deeper_pictures_are_reduced_if_asked(results: Path, place: Path) -> None:
    assert run("upscale photo.png --fit --draws 1 -o array.npy", results) == 0
    fitted = Image.open("photo.png").crop((5, 0, 25, 20)).resize((4, 4), Image.Resampling.BOX)
    assert np.array_equal(np.load("array.npy")[0, ::2, ::2], np.array(fitted) >> 4)
    assert run("inpaint deep.png --fit --mask left --draws 1 -o array.npy", results) == 0
    assert np.array_equal(np.load("array.npy")[0, :, 4:], levels("deep.png")[:, 4:])


def test_grey_pictures_of_17_levels_come_back_as_they_were(results: Path, place: Path) -> None:
    grey = (np.arange(64).reshape(8, 8) % 17 * 255 + 8) // 16
    save("grey.png", grey)
    save("rgb.png", np.stack([grey] * 3, -1))
    exif = Image.Exif()
    exif[0x0112] = 3  # to be shown turned by half
    Image.fromarray(grey[::-1, ::-1].astype(np.uint8)).save("turned.png", exif=exif)
    models = results.parent / "grey/results"
    for name in ("grey.png", "rgb.png", "turned.png"):
        assert run(f"inpaint {name} --mask upper --draws 1 -o folder", models, "depth") == 0
        assert np.array_equal(pixels("folder/0000.png")[4:], grey[4:])


def test_codes_are_edited(results: Path, place: Path) -> None:
    save("grey.png", np.full((8, 8), 255))
    assert run("inpaint grey.png --mask upper --draws 2 --repeats 2 -o folder", results, "latent") == 0
    assert all(np.array_equal(pixels(f"folder/000{number}.png")[4:], pixels("grey.png")[4:]) for number in range(2))


MISTAKES = {
    "upscale one.png": "one.png: expected 4x4 pixels (width x height), got 8x8",
    "upscale": "--samples: expected pictures or a number of samples, got neither",
    "upscale small.png --samples 2": "--samples: expected pictures or a number of samples, got both",
    "inpaint one.png --mask left --repeats 2": "--repeats: expected 1, because both has no scales of a diffusion, got",
    "upscale small.png -o out.jpg": "--output: expected .png, .npy, .h5, or a folder without a suffix, got out.jpg",
    "upscale array.npy": "array.npy: expected [N, 4, 4, 3], N > 0, got [1, 8, 8, 3]",
    "upscale small.png --class 1": "label: expected none, because both is conditioned on no class, got 1",
    "upscale noisy.png": "noisy.png: expected 4 bits (16 levels), got 8 bits with others of their 256 levels; --fit",
    "inpaint short.ppm --mask left": "short.ppm: expected a whole picture, got: ",
    "inpaint one.png --mask short.ppm": "short.ppm: expected a whole picture, got: ",
    "inpaint one.png --mask large.png": "large.png: expected a whole picture, got: ",
    f"inpaint one.png --mask {'n' * 300}": f"{'n' * 300}: expected a shorter name: File name too long",
    "deepen small.png": "small.png: expected 8x8 pixels (width x height), got 4x4",
    "deepen clear.png": "clear.png: expected an opaque picture, got a transparent one (mode RGBA); --fit reduces",
    "deepen 16.png": "16.png: expected levels of at most 8 bits, got mode I;16",
    "deepen deep_rgb.png": "deep_rgb.png: expected levels of at most 8 bits, got more",
    "upscale deep_rgb_plain.ppm --fit": "deep_rgb_plain.ppm: expected a whole picture of at least 4x4 pixels and at ",
    "inpaint one.png --mask deep_rgb.tif": "deep_rgb.tif: expected levels of at most 8 bits, got more",
    "deepen deep_rgb_planes.tif": "deep_rgb_planes.tif: expected levels of at most 8 bits, got more",
    "inpaint deep.png --mask mask.png": "deep.png: expected 4 bits (16 levels), got 8 bits with others of their 256",
    "inpaint one.png --mask small.png": "small.png: expected 8x8 pixels (width x height), got 4x4",
    "inpaint one.png --mask middle": "--mask: expected one of upper, lower, left, right, or a picture, got middle, whi",
    "inpaint one.png --mask mask.png -o mask.png": "--output: expected another file than those that are read, got mas",
    "upscale small.png -o small.png": "--output: expected another file than those that are read, got small.png",
    "inpaint drawn/0000.png --mask left -o drawn": "--output: expected another folder than that of drawn/0000.png, wh",
    "deepen drawn -o drawn": "--output: expected another folder than that of drawn/0000.png, which is read",
    "deepen one.png -o one.png/x": "--output: expected a folder that can be written to, got one.png for one.png/x",
    "deepen one.png --temperature inf": "temperature: expected a positive number for ",
    "inpaint one.png --mask upper --pick best": "--pick: expected likelihood, got best",
    "raster upscale small.png": "chain raster: expected a first stage of scale_factor 2 or more, which generates slice",
    "raster deepen one.png": "chain raster: expected stages of the high bits of all slices, then of low bits, got rast",
    "latent upscale small.png": "chain latent: expected a chain of pixels, got one of the codes of vq",
    "latent inpaint one.png --mask upper": "one.png: expected shades of grey, got colours (mode RGB); --fit reduces",
    "latent inpaint one.png --mask upper --pick likelihood": "chain latent: expected exact likelihoods of pixels, to",
}


@pytest.mark.parametrize(("command", "line"), MISTAKES.items())
def test_mistakes(command: str, line: str, results: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("array.npy", np.zeros((1, 8, 8, 3), np.uint8))
    save("noisy.png", pixels("deep.png")[:4, :4])
    save("clear.png", np.concatenate([pixels("one.png"), np.full((8, 8, 1), 9)], -1))
    Image.fromarray(np.zeros((8, 8), np.uint16)).save("16.png")
    for name, content in deep_rgb(8, 8).items():
        (place / name).write_bytes(content)
    Path("short.ppm").write_bytes(b"P5\n8 8")
    Path("large.png").write_bytes(png(20_000, 20_000))
    Path("drawn").mkdir()
    save("drawn/0000.png", pixels("one.png"))
    drawn = Path("drawn/0000.png").read_bytes()
    before = {*Path().iterdir()}
    chain = command.split()[0]
    command, chain = (command.split(maxsplit=1)[1], chain) if chain in ("raster", "latent") else (command, "both")
    assert run(command, results, chain) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"spn: error: {line}")
    assert {*Path().iterdir()} == before
    assert Path("drawn/0000.png").read_bytes() == drawn


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Allow this process 4 GiB more of memory, whatever the machine has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (4 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    "command",
    [
        "sample -n 2000000000 -o out.png",
        "upscale --samples 1 --draws 2000000000",
        "upscale --samples 2000000000 --draws 2000000000",
        "inpaint one.png --mask left --draws 2000000000",
    ],
)
def test_more_than_memory_holds_is_told_in_one_line(
    command: str, results: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {*place.iterdir()}
    assert run(command, results) == 1
    assert capsys.readouterr().err == "spn: error: not enough memory for all that was asked for at once\n"
    assert {*place.iterdir()} == before


def test_pictures_under_other_names_and_in_other_folders_are_no_hindrance(results: Path, place: Path) -> None:
    Path("drawn").mkdir()
    save("drawn/one.png", pixels("one.png"))
    save("0000.png", pixels("one.png"))
    for picture in ("drawn/one.png", "0000.png"):
        assert run(f"inpaint {picture} --mask upper -o drawn", results) == 0
    assert np.array_equal(pixels("drawn/one.png"), pixels("one.png"))


def test_progress_has_a_bar_for_every_stage(
    results: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("spn.generation.inpaint.SHOWN_AFTER", 0)
    assert run("inpaint one.png --mask upper", results) == 0
    shown = capsys.readouterr().err
    assert all(f"{stage}: 100%" in shown for stage in ("first_high", "rest_high", "low"))
