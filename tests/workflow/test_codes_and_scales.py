"""ImageBART from pictures to a report: a first stage, scales of codes and of pixels, a bound, samples, completions."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiment import BART, MODEL, TRAINING, tiny_params, write_params
from mlflow.tracking import MlflowClient

import spn
from spn.api import coding
from spn.cli import main
from spn.config import load_params
from spn.data.hdf5 import SliceFile
from spn.data.images import read_generated, read_images
from spn.data.in_memory import ImagesInMemory
from spn.evaluation.evaluate import stage_nats
from spn.evaluation.inpainting import hidden_half
from spn.image import join_slices
from spn.paths import HANDLE
from spn.pipeline import codec
from spn.pipeline.opening import open_slices
from spn.provenance import audit
from spn.trained import load_trained

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("imagebart")]

VQ = {"downsampling": 2, "codebook": 8, "code_width": 4, "width": 8}
LONGER = {"steps": 150, "validate_every": 150, "optimiser": {"name": "adamw", "learning_rate": 0.003}}
"""Enough that most codes are used, so that other tests have something to see."""
CODES = ("codes2", "codes1")


def params() -> dict[str, Any]:
    """Add a first stage, two scales of its codes, and two scales of high bits with low bits after them."""
    raw = tiny_params()
    raw["first_stages"] = {"vq": VQ | {"training": TRAINING | LONGER}}
    raw["schedules"] = {"even": {"name": "spaced", "scales": 2}, "half": {"name": "listed", "shares": [0.5, 0]}}
    of_codes = {"scale_factor": 1, "slices": "all", "bits": [0, 3], "codes": "vq", "model": BART, "training": TRAINING}
    of_pixels = of_codes | {"bits": [0, 2]}
    del of_pixels["codes"]
    for scale in (2, 1):
        diffusion = {"schedule": "even", "scale": scale, "draws": 3}
        raw["stages"][f"codes{scale}"] = of_codes | {"diffusion": diffusion, "captioned": True}
        raw["stages"][f"pixels{scale}"] = of_pixels | {"diffusion": {"schedule": "half", "scale": scale}}
    raw["stages"]["low_of_pixels"] = of_pixels | {"bits": [2, 5], "model": MODEL}
    raw["chains"] = {
        "raster": {"stages": ["raster"]},
        "latent": {"stages": list(CODES), "top_k": {"codes2": 4, "codes1": 4}, "temperature": {"codes1": 0.8}},
        "bound": {"stages": ["pixels2", "pixels1", "low_of_pixels"]},
    }
    return raw | {"completion": {"num_images": 3}, "codec": {"num_images": 5}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run every verb of the workflow in its order."""
    place = tmp_path_factory.mktemp("imagebart")
    write_params(place, params())
    with contextlib.chdir(place):
        run("preprocess --scale-factor 1 --output data/digits/S1.h5")
        slices, codes, stage = "--data data/digits/S1.h5", "--data results/stages/vq/codes.h5", "results/stages"
        run(f"train vq {slices} --output {stage}/vq")
        run(f"extract_codes vq {slices} --checkpoint {stage}/vq/checkpoint.safetensors --output {stage}/vq")
        for chain, section in load_params(Path("params.yaml")).chains.items():
            given = ""
            for name in section.stages:
                data = codes if name in CODES else slices
                decoder = f"--decoder {stage}/vq/checkpoint.safetensors" if name in CODES else ""
                weights = f"--checkpoint {stage}/{name}/checkpoint.safetensors"
                run(f"train {name} {data} --output {stage}/{name}")
                run(f"evaluate {name} {data} {weights} --output {stage}/{name}")
                output = f"results/chains/{chain}/{name}"
                run(f"sample_stage {chain} {name} {data} {weights} {decoder} {given} --output {output}")
                given = f"--given {output}/samples.h5"
            run(f"summarise {chain} --output results/chains/{chain}/metrics.json")
            run(f"export {chain} {slices} --output results/chains/{chain}")
            run(f"complete_chain {chain} {slices} --output results/chains/{chain}/completion")
            if chain == "raster":
                run(f"codec {chain} {slices} --output results/chains/{chain}/rate.json")
            run(f"record {chain} --output mlflow/chains/{chain}.json")
        run(f"report {slices}")
        yield place


def run(command: str) -> None:
    assert main(command.split()) == 0


def metrics(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("results", path).read_text())
    return found


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_all_results_are_sound(folder: Path) -> None:
    assert audit(load_params(Path("params.yaml"))).problems == []


def test_a_chain_is_a_bound_and_says_of_what() -> None:
    latent, bound = metrics("chains/latent/metrics.json"), metrics("chains/bound/metrics.json")
    assert [latent[key] for key in ("estimate", "dims", "num_dims")] == ["bound", "codes of vq", 16]
    assert [bound[key] for key in ("estimate", "dims", "num_dims")] == ["bound", "sub-pixels", 64]
    assert [stage.get("draws") for stage in bound["stages"].values()] == [8, 8, None]
    assert latent["stages"]["codes1"]["draws"] == 3
    assert bound["nats"] == pytest.approx(sum(stage["nats"] for stage in bound["stages"].values()), rel=1e-12)
    assert 0 < bound["standard_error_of_draws"] < bound["standard_error"]


def test_codes_are_those_of_the_images_in_order() -> None:
    figures = metrics("stages/vq/metrics.json")
    assert figures["num_codes"] == 8
    assert 5 < figures["perplexity"] <= 8
    codes, images = SliceFile(Path("results/stages/vq/codes.h5")), SliceFile(Path("data/digits/S1.h5"))
    assert codes.digest == images.digest
    assert (codes.shape, codes.bits, codes.num_images("test")) == ((4, 4, 1), 3, images.num_images("test"))


def test_a_spaced_schedule_is_that_of_the_measured_distortion() -> None:
    measured, slices = open_slices(load_params(Path("params.yaml")), "codes1", Path("results/stages/vq/codes.h5"))
    noise = measured.stage_plans["codes1"].noise
    assert noise is not None
    curve = dict(zip(slices.notes["kept"], slices.notes["distortion"], strict=True))
    assert noise.is_measured
    assert noise.kept[0] == 1
    assert noise.kept[-1] == 0
    shares, values = sorted(curve), np.maximum.accumulate([curve[share] for share in sorted(curve, reverse=True)])[::-1]
    assert np.interp(noise.kept[1], shares, values) == pytest.approx(curve[0.0] / 2, rel=1e-9)


def test_samples_of_codes_are_decoded_and_the_next_scale_is_given_the_codes() -> None:
    for name in CODES:
        path = Path(f"results/chains/latent/{name}/samples.h5")
        (images, _), (codes, _) = read_images(path), read_generated(path)
        assert (images.shape, codes.shape) == ((4, 8, 8, 1), (4, 4, 4, 1))
        assert codes.max() < 8


def fill(chain: str, digits: np.ndarray, half: str, label: int | str | None) -> np.ndarray:
    """Fill in a half of digits with a chain's model file."""
    hidden = hidden_half(half, 8, 8).numpy()
    filled: np.ndarray = spn.load("results", chain).inpaint(digits, hidden, draws=2, repeats=2, label=label)
    return filled


@pytest.mark.parametrize("chain", ["raster", "latent", "bound"])
def test_what_is_hidden_does_not_count(chain: str) -> None:
    """Two pictures that differ in hidden pixels alone are filled in alike, and known pixels stay."""
    data = SliceFile(Path("data/digits/S1.h5"))
    digits = join_slices(data.slices("test", torch.arange(10))).numpy()
    changed = np.concatenate((digits[:, :4], 16 - digits[:, 4:]), axis=1)
    label = "three" if chain == "latent" else None
    first, second = (fill(chain, each, "lower", label) for each in (digits, changed))
    assert np.array_equal(first, second)
    assert np.array_equal(first[0][:, :4], digits[:, :4])
    assert not np.array_equal(first[0], digits)


def test_a_caption_is_another_condition_than_the_images_own_classes() -> None:
    data = SliceFile(Path("data/digits/S1.h5"))
    digits = join_slices(data.slices("test", torch.arange(10))).numpy()
    named, seven, three = (fill("latent", digits, "upper", label) for label in ("seven", 7, 3))
    assert np.array_equal(named, seven)
    assert not np.array_equal(seven, three)


def test_what_follows_hidden_pixels_is_measured() -> None:
    found = {chain: metrics(f"chains/{chain}/completion/metrics.json")["given"] for chain in ("raster", "bound")}
    assert found["raster"]["lower"]["conditional_bits_per_dim"]["mean"] > 0
    assert "conditional_bits_per_dim" not in found["raster"]["upper"]
    assert "conditional_bits_per_dim" not in found["bound"]["lower"]
    assert all(mask["absolute_error"]["mean"] > 0 for masks in found.values() for mask in masks.values())


def test_the_size_of_coded_images_is_explained_to_the_bit() -> None:
    rate, nats = metrics("chains/raster/rate.json"), np.load("results/stages/raster/nats.npy")
    images = join_slices(SliceFile(Path("data/digits/S1.h5")).slices("test", torch.arange(5))).numpy()
    coded = spn.load("results", "raster").encode(images)
    evaluated, *between, size = rate["bits"].values()
    assert size == 8 * len(coded.content) == pytest.approx(evaluated + sum(between), abs=1e-6)
    assert evaluated == pytest.approx(nats[:5].sum() / np.log(2), rel=1e-12)
    assert rate["bits"]["header"] == size - coded.stream_bits
    assert rate["bits_per_dim"] == size / (5 * 64) > rate["evaluated_bits_per_dim"] == evaluated / (5 * 64)
    assert abs(rate["bits"]["float64"]) < 0.1
    assert 0 < rate["bits"]["ends_of_streams"] < 64
    assert metrics("metrics.json")["raster"]["codec"]["bits_per_dim"] == rate["bits_per_dim"]
    assert not Path("results/chains/bound/rate.json").exists()


def test_images_that_do_not_come_back_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def spoilt(*arguments: Any) -> Any:
        header, images = coding.decode(*arguments)
        images[0][0, 0] ^= 1
        return header, images

    monkeypatch.setattr(codec, "decode", spoilt)
    assert main(f"codec raster --data data/digits/S1.h5 --output {tmp_path}/rate.json".split()) == 2
    assert not (tmp_path / "rate.json").exists()


def test_mlflow_shows_reconstructions_and_completions() -> None:
    client = MlflowClient("sqlite:///mlflow.db")
    experiment = json.loads(HANDLE.read_text())["id"]
    stages, chains = (
        {run.info.run_name: run for run in client.search_runs([experiment], f"tags.kind = '{kind}'")}
        for kind in ("stage", "chain")
    )
    figures, recorded = metrics("stages/vq/metrics.json"), stages["vq"].data
    for key in ("psnr", "ssim", "codes_used", "perplexity"):
        assert recorded.metrics[key] == figures[key]
    assert recorded.tags["split"] == "test"
    for chain in ("raster", "latent", "bound"):
        for mask, found in metrics(f"chains/{chain}/completion/metrics.json")["given"].items():
            for key, value in found.items():
                assert chains[chain].data.metrics[f"completion.{mask}.{key}"] == value["mean"]
    assert chains["raster"].data.metrics["codec.bits_per_dim"] == metrics("chains/raster/rate.json")["bits_per_dim"]
    shown = [{each.path for each in client.list_artifacts(run.info.run_id)} for run in (stages["vq"], chains["latent"])]
    pictures = {"samples.png", "samples_1.png", "samples_2.png", "curves.png", "completed.png", "reconstructions.png"}
    assert shown == [{"checkpoint.safetensors", "reconstructions.png"}, pictures | {"params.yaml"}]
    assert chains["latent"].data.params["first_stages.vq.codebook"] == "8"
    assert chains["latent"].data.tags["family"] == "imagebart"
    assert recorded.tags["chain"] == "latent"


@pytest.mark.parametrize("verb", ["report --data data/digits/S1.h5", "record latent --output elsewhere.json"])
@pytest.mark.parametrize("picture", ["stages/vq/reconstructions.png", "chains/latent/completion/completed.png"])
def test_a_picture_that_was_exchanged_is_refused(verb: str, picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("results", picture)
    content = path.read_bytes()
    path.write_bytes(Path("results/plots/real.png").read_bytes())
    try:
        assert main(verb.split()) == 2
    finally:
        path.write_bytes(content)
    (line,) = capsys.readouterr().err.splitlines()
    assert picture in line


def test_dvc_compares_reconstructions_and_completions() -> None:
    compared, figures = metrics("metrics.json"), metrics("stages/vq/metrics.json")
    assert compared["latent"]["reconstruction"]["psnr"] == figures["psnr"]
    for chain in compared:
        for mask, found in metrics(f"chains/{chain}/completion/metrics.json")["given"].items():
            assert compared[chain]["completion"][mask] == {key: value["mean"] for key, value in found.items()}


def test_the_report_shows_reconstructions_and_completions() -> None:
    page = Path("results/plots/gallery.html").read_text()
    # Figures; ten test images beside neighbours; of each chain four samples after each stage and their neighbours,
    # and these and the test images once more; completions and reconstructions.
    assert page.count("<img") == 2 + 20 + 4 * (1 + 2 + 3 + 3) + 3 * (4 + 10) + 3 + 1
    latent, bound = (page.split(f"Chain {chain}</h2>")[1].split("<h2")[0] for chain in ("latent", "bound"))
    assert len(re.findall(r"<figcaption>\w+<br>≤ \d+\.\d\d</figcaption>", latent)) == 4 + 10
    assert len(re.findall(r"<figcaption>≤ \d+\.\d\d</figcaption>", bound)) == 4 + 10
    assert "at another temperature or from fewer levels, which their bits per code leave out" in latent
    assert "at another temperature" not in bound
    assert "Reconstructions" in page
    assert "perplexity" in page
    assert "The rest of an image" in page
    (row,) = re.findall(r"<tr><td>raster</td><td class=.number.>5</td>.*", page.split("Lossless coding</h2>")[1])
    assert f"{metrics('chains/raster/rate.json')['bits']['file']:,}" in row
    assert "latent (caption-conditional, codes of vq)" in page


def test_samples_of_codes_are_scored_by_the_codes_themselves() -> None:
    given = load_params(Path("params.yaml"))
    given, slices = open_slices(given, "codes2", Path("results/stages/vq/codes.h5"))
    codes, _ = read_generated(Path("results/chains/latent/codes1/samples.h5"))
    nats = np.zeros(len(codes))
    for name in CODES:
        checkpoint = Path(f"results/stages/{name}/checkpoint.safetensors")
        stage, network = load_trained(given, name, slices.digest, checkpoint, torch.device("cpu"))
        nats += stage_nats(stage, network, ImagesInMemory(codes, torch.arange(4)), "test", torch.device("cpu"))
    latent = Path("results/plots/gallery.html").read_text().split("Chain latent</h2>")[1].split("test images, and")[0]
    shown = [float(text) for text in re.findall(r"<br>≤ (\d+\.\d\d)</figcaption>", latent)]
    assert shown == pytest.approx((nats / (16 * np.log(2))).tolist(), abs=0.0051)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "codec latent --data data/digits/S1.h5 --output out.json",
            "results/chains/latent/model.safetensors: expected a chain of pixels, got latent, whose codes keep no "
            "picture exactly",
        ),
        (
            "codec bound --data data/digits/S1.h5 --output out.json",
            "results/chains/bound/model.safetensors: expected a chain with an exact likelihood, got bound, whose "
            "likelihood is a bound",
        ),
        (
            "train raster --data results/stages/vq/codes.h5 --output out",
            "results/stages/vq/codes.h5: expected slices of images for raster, got codes of vq",
        ),
        (
            "train codes1 --data data/digits/S1.h5 --output out",
            "data/digits/S1.h5: expected codes of vq for codes1, got slices of images",
        ),
        (
            "sample_stage latent codes2 --data results/stages/vq/codes.h5 --checkpoint "
            "results/stages/codes2/checkpoint.safetensors --output out",
            "--decoder: expected the checkpoint of vq, whose codes chain latent generates",
        ),
        (
            "extract_codes raster --data data/digits/S1.h5 --checkpoint x --output out",
            "first stage: expected one whose codes a chain uses (vq), got raster",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(command.split()) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == f"spn: error: {message}"
    assert not [*Path().glob("out*")]
