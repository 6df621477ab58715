"""Chains that are mixtures of orders: in params.yaml, in memory, in the terminal, and in every figure's label."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_files import rgb_params, write_model
from params_file import WITHOUT_CODES, Mistakes, changed, error_of, load
from perturbed import jobs_of

import spn
from spn import ChainModel
from spn.cli import main
from spn.config import InputError
from spn.image import apply_view
from spn.report.tables import mixture_lines, table_rows

VIEWS = ["identity", "transpose", "rotate"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChainModel]:
    """A chain of one order, and a mixture of three orders of the same stages."""
    raw, folder = rgb_params(), tmp_path_factory.mktemp("views")
    raw["chains"]["mixture"] = raw["chains"]["depth"] | {"views": VIEWS}
    return {name: spn.load(write_model(folder / name, raw, name)) for name in ("depth", "mixture")}


def noise(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 16, (count, 8, 8, 3), dtype=np.uint8)


def test_nats_are_those_of_the_mean_of_the_views(models: dict[str, ChainModel]) -> None:
    images = noise(4)
    seen = (images, images.transpose(0, 2, 1, 3), images[:, ::-1, ::-1])
    each = np.stack([models["depth"].nats(np.ascontiguousarray(view), exact=True) for view in seen])
    # Log-probabilities of hundreds of nats: relative to the first view, as they are far below the least float.
    expected = each[0] - np.log(np.exp(each[0] - each).mean(0))
    np.testing.assert_allclose(models["mixture"].nats(images, exact=True), expected, rtol=1e-12)
    bits = models["mixture"].bits_per_dim(images, exact=True)
    np.testing.assert_allclose(bits, expected / np.log(2) / images[0].size, rtol=1e-12)


def test_samples_are_those_of_the_chain_with_their_views_undone(models: dict[str, ChainModel]) -> None:
    seen = list(models["depth"].sample_stages(6, seed=4))
    finished = list(models["mixture"].sample_stages(6, seed=4))
    views = {
        next(view for view in VIEWS if np.array_equal(undone(view, seen[1][1][image]), finished[1][1][image]))
        for image in range(6)
    }
    assert len(views) > 1
    high = finished[0][1]
    ((_, again),) = models["mixture"].sample_stages(given=high, stages=["low"], seed=4)
    assert np.array_equal(again, finished[1][1])


def undone(view: str, image: Any) -> Any:
    return apply_view(torch.from_numpy(image), view).numpy()


REFUSED = {
    "stages": lambda model: model.nats(noise(1), per="stage"),
    "pixels": lambda model: model.nats(noise(1), per="pixel"),
    "walk": lambda model: model.walk(2),
    "inpaint": lambda model: model.inpaint(noise(1), np.ones((8, 8), bool)),
    "upscale": lambda model: model.upscale(noise(1)[:, ::2, ::2]),
    "deepen": lambda model: model.deepen(noise(1)),
    "encode": lambda model: model.encode(noise(1)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_needs_one_order_is_refused_in_one_line(what: str, models: dict[str, ChainModel]) -> None:
    with pytest.raises(InputError, match=r"mixture, a mixture of 3 orders|got a mixture of 3 orders") as caught:
        REFUSED[what](models["mixture"])
    assert len(str(caught.value).splitlines()) == 1
    REFUSED[what](models["depth"])


def test_scores_in_the_terminal_are_labelled_and_have_no_stages(
    models: dict[str, ChainModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "images.npy", noise(2))
    path = str(models["mixture"].path)
    assert main(["score", path, str(tmp_path / "images.npy"), "--format", "json"]) == 0
    (row, _) = json.loads(capsys.readouterr().out)
    assert list(row) == ["picture", "bits/dim (mixture of 3 orders)"]
    assert row["bits/dim (mixture of 3 orders)"] == pytest.approx(models["mixture"].bits_per_dim(noise(2))[0])
    assert main(["score", path, str(tmp_path / "images.npy"), "--map", str(tmp_path / "map.png")]) == 2
    assert "expected a chain of one order" in capsys.readouterr().err
    assert not (tmp_path / "map.png").exists()


def test_a_card_says_what_the_figure_is(models: dict[str, ChainModel]) -> None:
    notes = models["mixture"].notes
    notes["figures"]["views"] = {view: {"bits_per_dim": 1.5} for view in VIEWS}
    card = models["mixture"].card
    assert "(exact, mixture of 3 orders, over" in card
    assert "do not add up to its figure" in card
    assert "mixture" not in models["depth"].card


MISTAKES: Mistakes = {
    "no such view": ({"chains.raster.views": ["identity", "mirror"]}, "chains.raster.views.1: "),
    "one view": ({"chains.raster.views": ["rotate"]}, "chains.raster.views: expected at least two views"),
    "a view twice": ({"chains.raster.views": ["rotate"] * 2}, "chains.raster.views: expected at least two views"),
    "codes": (
        {"chains.imagebart.views": ["identity", "rotate"]},
        "chains.imagebart.views: expected stages of pixels with exact likelihoods, got codes2",
    ),
    "a bound": (
        WITHOUT_CODES | {"stages.raster.model.law": "dequantised", "chains.raster.views": ["identity", "rotate"]},
        "chains.raster.views: expected stages of pixels with exact likelihoods, got raster",
    ),
    "half precision": (
        {"chains.raster.views": ["identity", "rotate"], "export": {"weights": "bfloat16"}},
        "export.weights: expected float32 with chains.raster.views, got bfloat16",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line_with_its_key(name: str, tmp_path: Path) -> None:
    changes, start = MISTAKES[name]
    assert error_of(tmp_path, changed(changes)).startswith(start)


def test_views_change_only_the_figure_of_their_chain_and_what_shows_it(tmp_path: Path) -> None:
    before = jobs_of(load(tmp_path, changed({})))
    after = jobs_of(load(tmp_path, changed({"chains.depth.views": ["identity", "rotate"]})))
    found = {job for job in before | after if before.get(job) != after.get(job)}
    # The rest of images is drawn, and images are coded, in one order alone.
    verbs = ("summarise", "export", "complete_chain", "codec", "record")
    assert found == {f"{verb}/depth" for verb in verbs} | {"report"}
    assert "views" not in load(tmp_path, changed({})).model_dump(mode="json")["chains"]["depth"]


def mixture() -> dict[str, Any]:
    part = {"estimate": "exact", "bits_per_dim": 1.0, "standard_error": 0.1}
    figures = {"conditioning": "none", "dims": "sub-pixels", "num_parameters": 7, "stages": {"one": part, "two": part}}
    views = {"identity": {"bits_per_dim": 2.0}, "rotate": {"bits_per_dim": 2.5}}
    return part | figures | {"bits_per_dim": 1.9, "views": views}


def test_the_table_labels_a_mixture_and_adds_nothing_up() -> None:
    ((name, bits, *_, parts),) = table_rows({"both": mixture()})
    assert (name, bits) == ("both (mixture of 2 orders)", "1.9000 ± 0.1000")
    assert parts == "mixed: 2.0000 identity, 2.5000 rotate"
    (line,) = mixture_lines({"both": mixture()})
    assert line.startswith("both: the mean law of several orders")
    assert mixture_lines({"one": {key: value for key, value in mixture().items() if key != "views"}}) == []
