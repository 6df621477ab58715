import base64
import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docutils.core
import jinja2
import numpy as np
import pytest
import torch
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from pydantic import TypeAdapter

from spn.config import DataSection, InputError, Params, load_params
from spn.evaluation.neighbours import Neighbours
from spn.report import curves
from spn.report.comparison import Comparison, comparable
from spn.report.gallery import Gallery, Shown, html_gallery
from spn.report.pictures import save_grid
from spn.report.summary import write_report
from spn.report.tables import Pictured, draw_lines, shares_csv, text_table

ROOT = Path(__file__).parents[2]
DIGITS = {"source": "digits", "name": "digits", "bits": 5, "validation": 180, "test": 360}
CIFAR10 = {"source": "cifar10", "name": "cifar10", "bits": 8, "validation": 500}
IMAGENET = {"source": "arrays", "name": "im", "bits": 8, "size": 32, "channels": 3, "release": "imagenet-32-original"}

# How many test images it officially has is not known.
CELEBA = {"source": "folder", "name": "faces", "bits": 5, "size": 256, "channels": 3, "fit": "resize", "filter": "box"}
CELEBA["release"] = "celeba-hq-256"


def make_params(folder: Path, data: Mapping[str, Any]) -> Params:
    """A chain of one stage and a chain of two."""
    model = {
        "family": "spn",
        "width": 6,
        "heads": 1,
        "transformer_layers": 1,
        "pixelcnn_width": 6,
        "pixelcnn_layers": 1,
    }
    training = {
        "steps": 100,
        "batch_size": 2,
        "optimiser": {"name": "adamw", "learning_rate": 0.01},
        "warmup_steps": 0,
        "schedule": "constant",
        "ema_decay": 0.9,
        "validate_every": 50,
    }
    bits = data["bits"]
    ranges = {"whole": [0, bits], "high": [0, 2], "low": [2, bits]}
    stages = {
        name: {"scale_factor": 2, "slices": "all", "bits": cut, "model": model, "training": training}
        for name, cut in ranges.items()
    }
    chains = {"subscale": {"stages": ["whole"]}, "depth": {"stages": ["high", "low"]}}
    content = {"seed": 1, "data": data, "stages": stages, "chains": chains, "sampling": {"num_images": 4, "seed": 1}}
    path = folder / "params.yaml"
    path.write_text(json.dumps(content))
    return load_params(path)


def make_metrics(num_images: int = 360) -> dict[str, dict[str, Any]]:
    shares = {"subscale": {"whole": 2 + 1 / 3}, "depth": {"high": 0.7, "low": 1.600000000000003}}
    return {
        chain: {
            "chain": chain,
            "split": "test",
            "estimate": "exact",
            "conditioning": "none",
            "dims": "sub-pixels",
            "num_images": num_images,
            "bits_per_dim": sum(stages.values()),
            "standard_error": 1 / 7,
            "num_parameters": 1234 * len(stages),
            "training_seconds": 1234.5 * len(stages),
            "training_images_per_second": 12.34,
            "sampling_images_per_second": 0.5,
            "taken": {},
            "stages": {
                name: {"estimate": "exact", "bits_per_dim": share, "standard_error": 0.1}
                for name, share in stages.items()
            },
        }
        for chain, stages in shares.items()
    }


def with_a_bound() -> dict[str, dict[str, Any]]:
    """The chain of two stages is a bound, because one of them is."""
    metrics = make_metrics()
    metrics["depth"]["estimate"] = metrics["depth"]["stages"]["low"]["estimate"] = "bound"
    return metrics


def make_history() -> list[dict[str, float]]:
    rows: list[dict[str, float]] = [
        {"step": step, "train_bits_per_dim_estimate": 1 + 1 / step, "learning_rate": 0.01}
        for step in range(10, 101, 10)
    ]
    for row in rows[4::5]:
        row["validation_bits_per_dim_estimate"] = 1.1 + 1 / row["step"]
    return rows


def section(**changes: Any) -> Any:
    return TypeAdapter(DataSection).validate_python(changes)


def flat(*levels: int) -> torch.Tensor:
    """Make grey images of 8x8, each of one level."""
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 8, 8, 1)


def make_gallery(params: Params) -> Gallery:
    """Show two test images, of levels 1 and 2, and of every chain two samples, whose levels tell their stages."""
    shown, level = {}, 10
    for name, chain in params.chains.items():
        after = {}
        for stage in chain.stages:
            after[stage] = torch.cat((flat(level, level + 1), flat(level)))
            level += 2
        near = Neighbours(flat(5, 6), np.array([0.25, 1.5]))
        shown[name] = Shown(after, near, np.array([1.111, 2.222, 3.333]), (), np.array([4.444, 5.555]), ())
    return Gallery(flat(1, 2), Neighbours(flat(3, 4), np.array([1.0, 2.0])), shown)


def write_small_report(folder: Path, data: Mapping[str, Any], metrics: dict[str, dict[str, Any]]) -> Path:
    params = make_params(folder, data)
    histories = {name: make_history() for name in params.stage_plans}
    real = torch.zeros(4, *params.data.shape, dtype=torch.uint8)
    write_report(params, metrics, histories, real, make_gallery(params), folder / "results", Pictured())
    return folder / "results"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    stale = folder / "results/plots/curves/renamed.csv"
    stale.parent.mkdir(parents=True)
    stale.write_text("step\n")
    return write_small_report(folder, DIGITS, make_metrics())


def pixels(path: Path | io.BytesIO) -> np.ndarray:
    return np.asarray(Image.open(path))


def tile_centres(picture: np.ndarray, rows: int, columns: int) -> list[Any]:
    height, width = picture.shape[:2]
    return [
        picture[int((row + 0.5) / rows * height), int((column + 0.5) / columns * width)].tolist()
        for row in range(rows)
        for column in range(columns)
    ]


def test_a_grid_shows_images_in_reading_order_at_their_brightness(tmp_path: Path) -> None:
    images = np.array([0, 4, 8, 16, 17, 31], dtype=np.uint8).reshape(6, 1, 1, 1).repeat(8, 1).repeat(8, 2)
    save_grid(images, 16, tmp_path / "grid.png")
    assert tile_centres(pixels(tmp_path / "grid.png"), 2, 3) == [0, 64, 128, 255, 255, 255]


def test_a_grid_keeps_colours_and_fills_given_columns(tmp_path: Path) -> None:
    colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    images = torch.tensor(colours, dtype=torch.uint8).view(3, 1, 1, 3).expand(3, 32, 32, 3)
    save_grid(images, 255, tmp_path / "grid.png", columns=1)
    assert tile_centres(pixels(tmp_path / "grid.png"), 3, 1) == colours


@pytest.mark.parametrize(("size", "factor"), [(8, 6), (28, 2), (64, 1)])
def test_small_images_are_enlarged_without_inventing_levels(tmp_path: Path, size: int, factor: int) -> None:
    image = np.random.default_rng(0).integers(0, 2, (1, size, size, 1), dtype=np.uint8)
    save_grid(image, 1, tmp_path / "grid.png")
    picture = pixels(tmp_path / "grid.png")
    edge = (len(picture) - factor * size) // 2
    inside = picture[edge:-edge, edge:-edge]
    assert np.array_equal(inside, 255 * image[0, :, :, 0].repeat(factor, 0).repeat(factor, 1))


def test_a_grid_is_the_same_bytes_again_from_tensor_or_array(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    save_grid(images, 255, tmp_path / "array.png")
    save_grid(torch.from_numpy(images), 255, tmp_path / "tensor.png")
    assert (tmp_path / "array.png").read_bytes() == (tmp_path / "tensor.png").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"array.png", "tensor.png"}


def test_report_writes_every_file_and_leaves_none_of_a_stage_that_is_gone(results: Path) -> None:
    files = {str(path.relative_to(results)) for path in results.rglob("*") if path.is_file()}
    plots = {"bits_per_dim.csv", "bits_per_dim.png", "curves.png", "real.png"}
    curves = {f"curves/{stage}.csv" for stage in ("whole", "high", "low")}
    assert files == {"metrics.json"} | {f"plots/{name}" for name in {"gallery.html"} | plots | curves}


def cells(page: str) -> list[Any]:
    """Read the page of the figures: the level of every flat picture of 8x8 in it, and the captions below."""
    found: list[Any] = []
    for png, caption in re.findall(r"base64,([^\"]+)\">|<figcaption>(.*?)</figcaption>", page):
        picture = pixels(io.BytesIO(base64.b64decode(png))) if png else None
        if picture is None:
            found.append(caption)
        elif picture.shape == (8, 8):
            found.append(round(int(picture[0, 0]) * 16 / 255))
    return found


def part(page: str, name: str) -> str:
    """Cut a part out of the page, by its heading."""
    return page.split(f"{name}</h2>")[1].split("<h2")[0]


def test_the_page_begins_with_the_figures_and_loads_nothing(results: Path) -> None:
    page = (results / "plots/gallery.html").read_text()
    names = ["Bits/dim", "Training", "Samples and real images", "Chain subscale", "Chain depth"]
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", page) == names
    assert re.findall(r'<a href="#(.*?)">', page) == re.findall(r'<h2 id="(.*?)">', page)
    for name, file in (("Bits/dim", "bits_per_dim.png"), ("Training", "curves.png")):
        assert base64.b64encode((results / "plots" / file).read_bytes()).decode() in part(page, name)
    assert re.findall(r"(?:src|href)=\"(?!data:image/png;base64,|#)", page) == []


def test_real_images_stand_beside_the_nearest_training_images(results: Path) -> None:
    found = part((results / "plots/gallery.html").read_text(), "Samples and real images")
    assert cells(found) == [1, 3, "1.00", 2, 4, "2.00"]
    assert "levels, which are 0 to 16. It is 1.00 to 2.00, on average 1.50" in found


def test_a_chain_shows_its_stages_its_neighbours_and_the_bits_of_every_image(results: Path) -> None:
    found = part((results / "plots/gallery.html").read_text(), "Chain depth")
    assert re.findall("<th>(.*?)</th>", found) == ["1. high", "2. low", "nearest training image", "differs by"]
    strip = [12, 14, 5, 13, 15, 6]
    scored = [14, "1.11", 15, "2.22", 14, "3.33", 1, "4.44", 2, "5.55"]
    assert cells(found) == strip + scored
    assert re.findall("<td>([^<]+)</td>", found) == ["0.25 levels", "1.50 levels"]


def test_samples_of_a_conditional_chain_and_bounds_are_marked(tmp_path: Path) -> None:
    params, metrics = make_params(tmp_path, DIGITS), with_a_bound()
    gallery = make_gallery(params)
    told = replace(gallery.chains["depth"], tags=("one", "two", "<b>"), real_tags=("six", "ten"))
    gallery = replace(gallery, chains={**gallery.chains, "depth": told})
    save_grid(flat(0), 16, tmp_path / "plots/curves.png")
    save_grid(flat(0), 16, tmp_path / "plots/bits_per_dim.png")
    found = part(html_gallery(params, metrics, gallery, tmp_path, Pictured()), "Chain depth")
    captions = [each for each in cells(found) if isinstance(each, str)]
    assert captions == [
        "one<br>≤ 1.11", "two<br>≤ 2.22", "&lt;b&gt;<br>≤ 3.33", "six<br>≤ 4.44", "ten<br>≤ 5.55"
    ]  # fmt: skip
    assert re.findall("<th>(.*?)</th>", found)[0] == "given"
    assert "≤ 2.3000 ± 0.1429 bits/dim, an upper bound" in found


def test_a_first_slice_that_is_generated_alone_is_shown_at_its_own_size(tmp_path: Path) -> None:
    make_params(tmp_path, DIGITS)
    raw = json.loads((tmp_path / "params.yaml").read_text())
    for stage, slices in (("high", "first"), ("low", "rest")):
        raw["stages"][stage] |= {"slices": slices, "bits": [0, 5]}
    (tmp_path / "params.yaml").write_text(json.dumps(raw))
    params = load_params(tmp_path / "params.yaml")
    for name in ("curves.png", "bits_per_dim.png"):
        save_grid(flat(0), 16, tmp_path / "plots" / name)
    gallery = make_gallery(params)
    shown = gallery.chains["depth"]
    after = {stage: images.clone() for stage, images in shown.after.items()}
    after["high"][:, 1::2] = 0
    after["high"][:, :, 1::2] = 0
    gallery = replace(gallery, chains={"depth": replace(shown, after=after)})
    found = part(html_gallery(params, make_metrics(), gallery, tmp_path, Pictured()), "Chain depth")
    assert re.findall("<th>(.*?)</th>", found)[:2] == ["first slice, at its own size", "1. high"]
    sizes = re.findall(r'width="(\d+)" height="(\d+)" src="data:image/png;base64,([^"]+)"', found)
    first, whole = sizes[:2]
    assert (first[:2], whole[:2]) == (("24", "24"), ("48", "48"))
    small = pixels(io.BytesIO(base64.b64decode(first[2])))
    assert (small.shape, set(small.flatten().tolist())) == ((4, 4), {12 * 255 // 16})


def test_metrics_json_holds_full_precision(results: Path) -> None:
    subscale, depth = (make_metrics()[chain] for chain in ("subscale", "depth"))
    # A chain of one stage has no shares.
    assert json.loads((results / "metrics.json").read_text()) == {
        "subscale": {"bits_per_dim": subscale["bits_per_dim"], "standard_error": 1 / 7, "num_parameters": 1234},
        "depth": {
            "bits_per_dim": depth["bits_per_dim"],
            "standard_error": 1 / 7,
            "num_parameters": 2468,
            "stages": {"high": 0.7, "low": 1.600000000000003},
        },
    }


def test_plain_data_of_plots_has_no_empty_cell(results: Path) -> None:
    with (results / "plots/curves/high.csv").open() as file:
        rows = list(csv.DictReader(file))
    validated = [row for row in make_history() if "validation_bits_per_dim_estimate" in row]
    assert [{key: float(cell) for key, cell in row.items()} for row in rows] == [
        {key: value for key, value in row.items() if key != "learning_rate"} for row in validated
    ]
    with (results / "plots/bits_per_dim.csv").open() as file:
        shares = [(row["chain"], row["stage"], float(row["bits_per_dim"])) for row in csv.DictReader(file)]
    assert shares == [("subscale", "whole", 2 + 1 / 3), ("depth", "high", 0.7), ("depth", "low", 1.600000000000003)]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Keep every figure that is drawn, by the name of its file."""
    drawn: dict[str, Figure] = {}
    sound = curves._save

    def keep(figure: Figure, path: Path) -> None:
        drawn[path.stem] = figure
        sound(figure, path)

    monkeypatch.setattr(curves, "_save", keep)
    return drawn


def bars(figure: Figure) -> list[list[tuple[float, float]]]:
    """Return where the parts of each bar begin, and how long they are."""
    (axes,) = figure.axes
    rows: dict[float, list[tuple[float, float]]] = {}
    for container in axes.containers:
        for part in container.patches if isinstance(container, BarContainer) else ():
            rows.setdefault(round(part.get_y() + part.get_height() / 2, 6), []).append((part.get_x(), part.get_width()))
    return [rows[place] for place in sorted(rows)]


def whiskers(figure: Figure) -> list[tuple[float, float]]:
    """Return where the whiskers at the bars' ends begin and end."""
    (axes,) = figure.axes
    lines = [line for each in axes.containers if isinstance(each, ErrorbarContainer) for line in each.lines[2]]
    return [tuple(segment[:, 0]) for line in lines for segment in line.get_segments()]


def test_figures_are_the_same_again_and_show_their_data(
    results: Path, tmp_path: Path, figures: dict[str, Figure]
) -> None:
    metrics = make_metrics()
    metrics["depth"]["stages"]["high"]["bits_per_dim"] = 0.1
    again = write_small_report(tmp_path, DIGITS, metrics)
    assert np.array_equal(pixels(again / "plots/curves.png"), pixels(results / "plots/curves.png"))
    assert bars(figures["bits_per_dim"]) == [
        [(0, pytest.approx(2 + 1 / 3))],
        [(0, pytest.approx(0.1)), (pytest.approx(0.1), pytest.approx(1.6))],
    ]
    (axes,) = figures["bits_per_dim"].axes
    assert {text.get_text(): text.get_position()[0] for text in axes.texts}["1.600"] == pytest.approx(0.1 + 1.6 / 2)
    totals = (2 + 1 / 3, 2.3)
    assert whiskers(figures["bits_per_dim"]) == [pytest.approx((total - 1 / 7, total + 1 / 7)) for total in totals]


def points(line: Line2D) -> list[list[float]]:
    return np.asarray(line.get_xydata()).tolist()


def test_curves_are_those_of_the_history(tmp_path: Path, figures: dict[str, Figure]) -> None:
    write_small_report(tmp_path, DIGITS, make_metrics())
    whole, parts = figures["curves"].axes
    history = make_history()
    trained = [[row["step"], row["train_bits_per_dim_estimate"]] for row in history]
    validated = [[row["step"], row["validation_bits_per_dim_estimate"]] for row in history[4::5]]
    assert [points(line) for line in whole.lines] == [trained, validated]
    assert [points(line) for line in parts.lines] == 2 * [trained, validated]
    assert [line.get_label() for line in parts.lines[1::2]] == ["high", "low"]


def test_report_of_a_single_image_and_a_history_of_one_row_needs_no_standard_error(
    tmp_path: Path, figures: dict[str, Figure]
) -> None:
    params = make_params(tmp_path, DIGITS | {"limit": {"test": 1}})
    metrics = make_metrics(num_images=1)
    for each in metrics.values():
        each["standard_error"] = None
    histories = {name: make_history()[-1:] for name in params.stage_plans}
    real = np.zeros((1, 8, 8, 1), dtype=np.uint8)
    write_report(params, metrics, histories, real, make_gallery(params), tmp_path, Pictured())
    assert json.loads((tmp_path / "metrics.json").read_text())["depth"]["standard_error"] is None
    assert "±" not in text_table(params, metrics).splitlines()[1]
    assert whiskers(figures["bits_per_dim"]) == []
    whole, _ = figures["curves"].axes
    assert [points(line) for line in whole.lines] == [[[100, 1.01]], [[100, pytest.approx(1.11)]]]


def test_text_table_has_a_line_per_chain_and_says_what_it_is(tmp_path: Path) -> None:
    header, subscale, depth, said, _ = text_table(make_params(tmp_path, DIGITS), make_metrics()).splitlines()
    assert header.split()[0] == "chain"
    speeds = ["1,234", "12.3", "0.500"]  # 1,234.5 to the even one
    assert subscale.split() == ["subscale", "2.3333", "±", "0.1429", "1,234", *speeds, "2.3333", "whole"]
    assert depth.split()[4:8] == ["2,468", "2,469", *speeds[1:]]
    assert depth.endswith("  0.7000 high + 1.6000 low")
    assert "training (s)  training (images/s)  sampling (images/s)" in header
    assert said == "exact, over all 360 test images of digits, 8x8x1, 5 bits"


def test_the_last_line_says_how_far_the_best_chain_leads_and_what_it_learned_from(tmp_path: Path) -> None:
    params = make_params(tmp_path, DIGITS)
    sections = {name: section.training for name, section in params.stages.items()}
    # A step takes one slice of 4x4 of each image of its batch.
    seen = {name: 16 * section.steps * section.batch_size for name, section in sections.items()}
    *_, last = text_table(params, make_metrics()).splitlines()
    assert last == (
        "depth is 0.0333 bits/dim ahead of subscale: it learned from "
        f"{(seen['high'] + seen['low']) / 1e6:#.3g} million sub-pixels in 2,469 s (softmax); "
        f"subscale from {seen['whole'] / 1e6:#.3g} million sub-pixels in 1,234 s (softmax)"
    )
    written = write_small_report(tmp_path, DIGITS, make_metrics())
    assert last in (written / "plots/gallery.html").read_text()


def test_a_bound_is_nowhere_shown_as_exact(tmp_path: Path, figures: dict[str, Figure]) -> None:
    metrics = with_a_bound()
    written = write_small_report(tmp_path, DIGITS, metrics)
    # No chain leads another that is a bound.
    _, subscale, depth, last = text_table(make_params(tmp_path, DIGITS), metrics).splitlines()
    assert "≤" not in subscale
    assert depth.split()[:2] == ["depth", "≤"]
    assert depth.endswith("0.7000 high + ≤ 1.6000 low")
    assert last.startswith("exact, but for upper bounds (≤), over all 360")
    page = (written / "plots/gallery.html").read_text()
    assert '<td class="number">≤ 2.3000 ± 0.1429</td>' in page
    assert last in page
    compared = json.loads((written / "metrics.json").read_text())
    assert compared["depth"]["estimate"] == "bound"
    assert "estimate" not in compared["subscale"]
    with (written / "plots/bits_per_dim.csv").open() as file:
        assert {row["chain"] for row in csv.DictReader(file)} == {"subscale", "depth (bound)"}
    (axes,) = figures["bits_per_dim"].axes
    said = {text.get_text() for text in axes.texts}
    assert {"≤ 1.600", "0.700"} <= said
    assert [text.get_text().startswith("≤ 2.300") for text in axes.texts if "±" in text.get_text()] == [False, True]
    metrics["subscale"]["estimate"] = "bound"
    assert text_table(make_params(tmp_path, DIGITS), metrics).splitlines()[-1].startswith("upper bounds (≤), over")


@pytest.mark.parametrize(
    ("draws", "error", "said"),
    [
        ((8, 8), 0.04111, "the mean of 8 draws of noise for each image, with a standard error of 0.0411"),
        ((8, 2), 0.04111, "the mean of 2 or 8 draws of noise for each image, with a standard error of 0.0411"),
        ((8, 1), None, "the mean of 1 or 8 draws of noise for each image, whose standard error is not known"),
        ((1, 1), None, "1 draw of noise for each image, whose standard error is not known"),
    ],
)
def test_the_draws_of_a_bound_are_told_with_their_standard_error(
    tmp_path: Path, draws: tuple[int, int], error: float | None, said: str
) -> None:
    metrics = with_a_bound()
    metrics["depth"]["standard_error_of_draws"] = error
    for stage, count in zip(metrics["depth"]["stages"].values(), draws, strict=True):
        stage["draws"] = count
    assert draw_lines(metrics) == [f"depth: {said}"]
    written = write_small_report(tmp_path, DIGITS, metrics)
    assert said in (written / "plots/gallery.html").read_text()


def test_a_mixture_of_orders_is_nowhere_shown_as_a_sum_or_a_single_order(
    tmp_path: Path, figures: dict[str, Figure]
) -> None:
    metrics = make_metrics()
    metrics["depth"] |= {
        "bits_per_dim": 2.2,
        "views": {"identity": {"bits_per_dim": 2.3}, "rotate": {"bits_per_dim": 2.25}},
    }
    written = write_small_report(tmp_path, DIGITS, metrics)
    said = "depth (mixture of 2 orders)"
    _, _, depth, _, note, _ = text_table(make_params(tmp_path, DIGITS), metrics).splitlines()
    assert depth.startswith(said)
    assert depth.endswith("mixed: 2.3000 identity, 2.2500 rotate")
    assert note.startswith("depth: the mean law of several orders of one network, exact")
    page = (written / "plots/gallery.html").read_text()
    assert page.count(said) >= 2  # in the table, and above its samples
    assert note in page
    compared = json.loads((written / "metrics.json").read_text())["depth"]
    assert compared["views"] == {"identity": 2.3, "rotate": 2.25}
    assert "stages" not in compared
    with (written / "plots/bits_per_dim.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["chain"].startswith("depth")]
    assert rows == [{"chain": said, "stage": "mixture of 2 orders", "bits_per_dim": "2.2"}]
    (axes,) = figures["bits_per_dim"].axes
    assert said in [label.get_text() for label in axes.get_yticklabels()]
    assert {"2.200"} <= {text.get_text() for text in axes.texts}


@pytest.mark.parametrize(
    ("data", "num_images", "said"),
    [
        (DIGITS | {"limit": {"test": 50}}, 50, "the 50 test images that data.limit.test keeps of digits"),
        (DIGITS | {"limit": {"train": 1000}}, 360, "5 bits; trained on at most 1,000 images"),
        (CIFAR10, 10_000, "all 10,000 test images of cifar10, 32x32x3, 8 bits"),
        (CIFAR10, 9_980, "9,980 of 10,000 test images of cifar10"),
        (IMAGENET, 50_000, "all 50,000 test images of im (imagenet-32-original)"),
        (IMAGENET | {"test": 100}, 100, "all 100 test images of im"),
    ],
)
def test_the_line_below_the_table_names_the_images_measured(
    tmp_path: Path, data: dict[str, Any], num_images: int, said: str
) -> None:
    line = text_table(make_params(tmp_path, data), make_metrics(num_images)).splitlines()[3]
    assert said in line


def test_chains_over_different_images_are_not_compared(tmp_path: Path) -> None:
    metrics = make_metrics()
    metrics["depth"]["num_images"] = 359
    with pytest.raises(InputError, match="subscale: test 360; depth: test 359"):
        text_table(make_params(tmp_path, DIGITS), metrics)


@pytest.mark.parametrize(
    ("data", "num_images", "reason"),
    [
        (DIGITS, 360, "digits"),
        (
            {"source": "photos", "name": "p", "bits": 8, "size": 32, "stride": 8, "validation": 0.1, "test": 0.1},
            9,
            "photos",
        ),
        ({"source": "mnist", "name": "mnist", "bits": 8, "validation": 500}, 10_000, "mnist"),
        (CIFAR10 | {"bits": 5}, 10_000, "32x32x3 at 5 bits"),
        (CIFAR10 | {"limit": {"test": 500}}, 500, "data.limit.test keeps 500"),
        (CIFAR10 | {"limit": {"test": 9_980}}, 9_980, "data.limit.test keeps 9,980"),
        (CIFAR10, 500, "this has 500"),
        (CIFAR10, 10_001, "this has 10,001"),
        (IMAGENET, 50_000, "49,999 test images, this has 50,000"),
        (IMAGENET | {"test": 49_999}, 49_999, "drawn from the training split"),
        (IMAGENET | {"size": 64}, 49_999, "64x64x3 at 8 bits"),
        (IMAGENET | {"channels": 1}, 49_999, "32x32x1 at 8 bits"),
        (IMAGENET | {"release": "ImageNet 32"}, 49_999, "data.release is 'ImageNet 32'"),
        (CELEBA | {"limit": {"test": 3_000}}, 3_000, "data.limit.test keeps 3,000"),
    ],
)
def test_figures_that_are_not_comparable_say_why(data: dict[str, Any], num_images: int, reason: str) -> None:
    found = comparable(section(**data), num_images)
    assert isinstance(found, str)
    assert reason in found


@pytest.mark.parametrize(
    ("data", "num_images", "model", "caveats"),
    [
        (CIFAR10, 10_000, ("PixelCNN++", 2.92, 2017), ()),
        (CIFAR10, 9_980, ("PixelRNN", 3.00, 2016), ("nearly comparable: 9,980 of 10,000 images",)),
        (
            CIFAR10 | {"limit": {"train": 5_000}},
            10_000,
            ("NICE", 4.48, 2014),
            ("trained here on at most 5,000 images",),
        ),
        (CIFAR10 | {"limit": {"test": 10_000}}, 10_000, ("DRAW", 4.13, 2015), ()),
        (IMAGENET, 49_999, ("Glow", 4.09, 2018), ()),
        (IMAGENET | {"size": 64, "release": "imagenet-64-original"}, 49_999, ("Glow", 3.81, 2018), ()),
    ],
)
def test_comparable_figures_come_with_their_caveats(
    data: dict[str, Any], num_images: int, model: tuple[str, float, int], caveats: tuple[str, ...]
) -> None:
    found = comparable(section(**data), num_images)
    assert isinstance(found, Comparison)
    assert model in [(row.model, row.bits_per_dim, row.year) for row in found.rows]
    assert found.caveats == caveats


@pytest.mark.parametrize(("bits", "is_comparable"), [(5, True), (8, False)])
def test_celeba_is_compared_at_five_bits_with_an_unknown_count_named(bits: int, is_comparable: bool) -> None:
    found = comparable(section(**CELEBA | {"bits": bits}), 3_000)
    assert isinstance(found, Comparison) == is_comparable
    if isinstance(found, Comparison):
        assert "3,000 images here" in found.caveats[0]


def test_the_page_shows_published_figures_and_marks_the_recalled(tmp_path: Path) -> None:
    page = (write_small_report(tmp_path, CIFAR10, make_metrics(9_980)) / "plots/gallery.html").read_text()
    assert "nearly comparable: 9,980 of 10,000 images" in page
    assert '<td>PixelSNAIL</td><td class="number">2.85†</td>' in page
    assert '<td>PixelCNN++</td><td class="number">2.92</td><td>Salimans et al. 2017</td>' in page
    assert "<td>van den Oord &amp; Schrauwen 2014</td>" in page
    assert "<td>depth</td>" in page


def test_text_of_the_user_is_escaped_and_no_formula(tmp_path: Path) -> None:
    data = {"source": "folder", "name": "own", "bits": 8, "size": 8, "channels": 1, "fit": "crop", "filter": "box"}
    written = write_small_report(tmp_path, data | {"release": "a <b>bold</b> $one_{$ & more"}, make_metrics())
    assert "<b>" not in (written / "plots/gallery.html").read_text()
    assert "a &lt;b&gt;bold&lt;/b&gt; $one_{$ &amp; more" in (written / "plots/gallery.html").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "workflow/captions").glob("*.rst")), ids=lambda path: path.stem)
def test_captions_render_as_snakemake_does_it(path: Path) -> None:
    wildcards = SimpleNamespace(chain="some_chain", stage="some_stage", first_stage="some_first_stage")
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(path.read_text())
    params = SimpleNamespace(label="All images are of class 3.")
    text = template.render(snakemake=SimpleNamespace(wildcards=wildcards, params=params))
    strict = {"halt_level": 2, "report_level": 2}
    body = docutils.core.publish_parts(text, writer="html", settings_overrides=strict)["html_body"]
    assert "<p>" in body
    assert ("some_chain" in body and "some_stage" in body and "of class 3." in body) == (path.stem == "samples")


def test_chains_of_codes_stand_in_no_comparison() -> None:
    metrics = make_metrics()
    codes = {"latent": next(iter(metrics.values())) | {"dims": "codes of vq"}}
    assert shares_csv(metrics | codes) == shares_csv(metrics)
    assert "latent (codes of vq)" in shares_csv(codes)
