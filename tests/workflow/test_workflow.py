"""The real Snakemake on real digits: what runs again and what does not, and what stops everything."""

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from experiment import read_history, tiny_params
from pages import commands
from PIL import Image
from tracked import open_at
from workspace import AFTER_LOW, CHAIN, EVERYTHING, ROOT, STAGES, Workspace, finished, with_steps

import spn
from spn.checkpoint import load_tensors, save_tensors
from spn.cli import main
from spn.data.hdf5 import SliceFile
from spn.data.images import read_images
from spn.data.layout import Split
from spn.image import join_slices
from spn.tracking import load_experiment, stage_run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("workspace")]

SEEN: tuple[Split, Split] = ("test", "train")
TRAININGS = tuple(f"results/stages/{stage}/checkpoint.safetensors" for stage in STAGES)
LOW = "results/stages/low/checkpoint.safetensors"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The finished experiment; not to be changed."""
    return finished(tmp_path_factory.getbasetemp())[0]


@pytest.fixture
def workspace(done: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the finished experiment."""
    return done.copy(tmp_path / "project")


def test_every_output_is_made(done: Workspace) -> None:
    files = {str(path.relative_to(done.folder)) for path in (done.folder / "results").rglob("*") if path.is_file()}
    expected = {"metrics.json", "report.html"}
    expected |= {f"plots/{name}" for name in ("bits_per_dim.csv", "bits_per_dim.png", "real.png")}
    expected |= {"plots/report.json", "plots/gallery.html"}
    expected |= {"plots/curves.png"} | {f"plots/curves/{stage}.csv" for stage in STAGES}
    made = ("checkpoint.safetensors", "history.csv", "metrics.json", "nats.npy")
    expected |= {f"stages/{stage}/{name}" for stage in STAGES for name in made}
    expected |= {
        f"chains/{chain}/{name}" for chain in ("raster", "depth") for name in ("metrics.json", "model.safetensors")
    }
    places = ("raster/raster", "depth/high", "depth/low")
    expected |= {f"chains/{place}/{name}" for place in places for name in ("samples.h5", "samples.png", "timing.json")}
    assert files == {f"results/{name}" for name in expected}
    assert {"mlflow/experiment.json", "mlflow/chains/raster.json", "mlflow/chains/depth.json"} == {
        str(path.relative_to(done.folder)) for path in (done.folder / "mlflow").rglob("*.json")
    }


def test_a_chain_is_the_sum_of_its_stages(done: Workspace) -> None:
    metrics = json.loads((done.folder / "results/metrics.json").read_text())
    stages = [json.loads((done.folder / f"results/stages/{stage}/metrics.json").read_text()) for stage in CHAIN]
    assert metrics["depth"]["bits_per_dim"] == pytest.approx(sum(stage["bits_per_dim"] for stage in stages), abs=1e-12)
    assert metrics["depth"]["stages"] == {stage["stage"]: stage["bits_per_dim"] for stage in stages}
    assert {stage["num_images"] for stage in stages} == {10}


def test_a_model_file_has_the_samples_and_the_figures_of_the_workflow(done: Workspace) -> None:
    for chain, stages in {"raster": ["raster"], "depth": [*CHAIN]}.items():
        model = spn.load(done.folder / "results", chain=chain)
        sampled = dict(model.sample_stages(4, seed=1))
        assert list(sampled) == stages
        for stage, images in sampled.items():
            assert np.array_equal(images, read_images(done.folder / f"results/chains/{chain}/{stage}/samples.h5")[0])
        slices = SliceFile(done.folder / f"data/digits/S{1 if chain == 'raster' else 2}.h5")
        images = join_slices(slices.slices("test", torch.arange(10)))
        for stage, nats in model.nats(images.numpy(), per="stage").items():
            assert np.array_equal(nats, np.load(done.folder / f"results/stages/{stage}/nats.npy"))
        figures = json.loads((done.folder / f"results/chains/{chain}/metrics.json").read_text())
        assert model.notes["figures"]["bits_per_dim"] == figures["bits_per_dim"]
        assert model.bits_per_dim(images).mean() == pytest.approx(figures["bits_per_dim"])


def test_half_precision_is_evaluated_again_over_the_whole_test_split(workspace: Workspace) -> None:
    workspace.write_params(tiny_params() | {"export": {"weights": "bfloat16"}})
    chains = ("raster", "depth")
    ran = {f"{rule}/{chain}" for rule in ("export", "record") for chain in chains} | {"reproduce"}
    before = {chain: spn.load(workspace.folder / "results", chain=chain) for chain in chains}
    sizes = {chain: model.path.stat().st_size for chain, model in before.items()}
    assert workspace.snakemake().ran == ran
    for chain in chains:
        model, full = spn.load(workspace.folder / "results", chain=chain), before[chain]
        slices = SliceFile(workspace.folder / f"data/digits/S{1 if chain == 'raster' else 2}.h5")
        images = join_slices(slices.slices("test", torch.arange(10)))
        figure = model.notes["figures"]["bits_per_dim"]
        assert model.bits_per_dim(images).mean() == pytest.approx(figure)
        assert model.notes["half"] == {
            "bits_per_dim": figure,
            "full_bits_per_dim": full.notes["figures"]["bits_per_dim"],
        }
        assert 0 < abs(figure - full.notes["figures"]["bits_per_dim"]) < 0.01
        assert f"{figure:.6f} against" in model.card
        assert model.path.stat().st_size < sizes[chain]


def test_an_evaluation_ends_with_its_figure(done: Workspace) -> None:
    metrics = json.loads((done.folder / "results/stages/low/metrics.json").read_text())
    figure = f"{metrics['bits_per_dim']:.4f} ± {metrics['standard_error']:.4f} bits/dim"
    *_, last = (done.folder / "logs/evaluate/low.log").read_text().splitlines()
    assert last == f"low: {figure}, exact, over 10 test images"


def test_a_chain_takes_the_time_of_its_stages(done: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done.folder)
    folder = Path("results/stages")
    seconds = [read_history(folder / stage / "history.csv")[-1]["training_seconds"] for stage in CHAIN]
    rates = [6 * 8 / each for each in seconds]  # six steps of eight images
    timings = [json.loads(Path(f"results/chains/depth/{stage}/timing.json").read_text()) for stage in CHAIN]
    assert [(timing["images"], timing["device"]) for timing in timings] == [(4, "cpu")] * 2
    run_id = json.loads(Path("mlflow/chains/depth.json").read_text())["run_id"]
    recorded = load_experiment(Path("mlflow/experiment.json")).client.get_run(run_id).data
    sampling = 4 / sum(timing["seconds"] for timing in timings)
    assert recorded.metrics["sampling_images_per_second"] == pytest.approx(sampling)
    assert recorded.metrics["training_seconds"] == pytest.approx(sum(seconds))
    assert recorded.metrics["training_images_per_second"] == pytest.approx(1 / sum(1 / rate for rate in rates))
    assert recorded.tags["estimate"] == "exact"


def test_the_report_is_one_file_with_table_curves_and_samples(done: Workspace) -> None:
    page = (done.folder / "results/report.html").read_text()
    pictures = ["plots/bits_per_dim.png", "plots/curves.png", "plots/real.png"]
    pictures += [f"chains/{place}/samples.png" for place in ("raster/raster", "depth/high", "depth/low")]
    for name in [*pictures, "plots/gallery.html"]:
        embedded = base64.b64encode((done.folder / "results" / name).read_bytes()).decode()
        assert f"results/{name}" in page
        assert embedded in page, name


def test_the_page_scores_samples_and_test_images_as_model_files_do(done: Workspace) -> None:
    results = done.folder / "results"
    page = (results / "plots/gallery.html").read_text()
    slices = SliceFile(done.folder / "data/digits/S1.h5")
    real, train = (join_slices(slices.slices(split, torch.arange(slices.num_images(split)))) for split in SEEN)
    for chain, last in (("raster", "raster"), ("depth", "low")):
        samples, _ = read_images(results / f"chains/{chain}/{last}/samples.h5")
        model = spn.load(results, chain)
        part = page.split(f"Chain {chain}</h2>")[1].split("<h2")[0]
        shown = [float(text) for text in re.findall(r"<figcaption>(\d+\.\d\d)</figcaption>", part)]
        bits = [*model.bits_per_dim(samples).tolist(), *model.bits_per_dim(real).tolist()]
        assert shown == pytest.approx(bits, abs=0.0051)
        far = [(train.int() - sample.int()).abs().float().mean((1, 2, 3)).min().item() for sample in samples]
        levels = [float(text) for text in re.findall(r"<td>(\d+\.\d\d) levels</td>", part)]
        assert levels == pytest.approx(far, abs=0.0051)


def test_every_picture_of_the_report_has_its_labels_in_the_order_of_its_chain(done: Workspace) -> None:
    page = (done.folder / "results/report.html").read_text()
    labels = [json.loads(found) for found in re.findall(r'"labels": (\{.*?\}|null)', page)]
    samples = [tuple(each.values()) for each in labels if each and "chain" in each]
    assert sorted(samples) == [
        ("(real images)", ""),
        ("depth", "01. high"),
        ("depth", "02. low"),
        ("raster", "01. raster"),
    ]
    assert len(labels) == len(samples) + 3  # of all chains
    assert None not in labels


def test_nothing_changed_and_nothing_runs_but_the_comparison(workspace: Workspace) -> None:
    again = workspace.snakemake()
    assert again.ran == {"reproduce"}
    assert "] nothing to do: " in again.output
    metrics = json.loads((workspace.folder / "results/metrics.json").read_text())
    for chain in ("raster", "depth"):
        assert re.search(rf"^{chain} +{metrics[chain]['bits_per_dim']:.4f} ", again.output, re.MULTILINE)


def test_make_with_nothing_to_do_says_so_and_the_table(workspace: Workspace) -> None:
    shutil.copy(ROOT / "Makefile", workspace.folder)
    make = ("make", "--old-file", "install", "reproduce")
    report = workspace.folder / "results/report.html"
    report.touch()
    made = report.stat().st_mtime_ns
    again = workspace.run(*make)
    assert again.ran == {"reproduce"}
    assert "] nothing to do: " in again.output
    assert re.search(r"^depth +\d", again.output, re.MULTILINE)
    assert "samples.h5" not in again.output
    assert report.stat().st_mtime_ns == made
    (workspace.folder / "results/plots/gallery.html").touch()
    workspace.run(*make)
    assert report.stat().st_mtime_ns > made


def test_comments_docstrings_and_what_nothing_uses_change_nothing(workspace: Workspace) -> None:
    workspace.append("spn/models/spn.py", "\n# A remark.\n")
    workspace.append("spn/stages/cells.py", "\nUNUSED = True\n")
    workspace.edit("spn/layers/causal.py", '"""', '"""Otherwise put: ')
    assert workspace.snakemake().ran == {"reproduce"}


@pytest.mark.parametrize(
    ("module", "edit", "kept"),
    [
        ("report/tables.py", ("'≤ '", "'<= '"), EVERYTHING - {"report", "reproduce"}),
        (
            "evaluation/evaluate.py",
            ("nats.mean()", "nats.mean() + 0"),
            {job for job in EVERYTHING if job.startswith(("pre", "train", "sample_stage"))},
        ),
        (
            "generation/sample.py",
            ("% num_classes", "% max(1, num_classes)"),
            {
                job
                for job in EVERYTHING
                if not job.startswith(("sample_stage", "export", "record", "report", "reproduce"))
            },
        ),
    ],
)
def test_what_a_line_of_code_makes_run(
    workspace: Workspace, module: str, edit: tuple[str, str], kept: set[str]
) -> None:
    workspace.edit(f"spn/{module}", *edit)
    assert workspace.plan() == EVERYTHING - kept


def test_a_line_of_a_model_trains_all_stages_of_its_family_unless_they_are_adopted(workspace: Workspace) -> None:
    """The code is refactored, and means the same: scored again, sampled again, recorded again, but not trained."""
    workspace.edit("spn/models/spn.py", "self.transformer(tokens", "self.transformer(1 * tokens")
    planned = {job for job in workspace.plan() if job.startswith(("preprocess", "train"))}
    assert planned == {f"train/{stage}" for stage in STAGES}
    said = workspace.run("spn", "adopt", *STAGES).output
    assert [line.partition(": adopted")[0] for line in said.splitlines() if ": adopted" in line] == list(STAGES)
    done = workspace.snakemake()
    assert done.trained == set()
    assert {job for job in done.ran if job.startswith(("preprocess", "train"))} == set()
    assert {f"evaluate/{stage}" for stage in STAGES} <= done.ran
    assert workspace.snakemake().ran == {"reproduce"}


def test_commands_of_the_pages_run(workspace: Workspace) -> None:
    """Those of spn and Snakemake that need nothing but the experiment; others are run by other tests."""
    presets = ("compare", "ablations", "orders", "presets/")
    elsewhere = ("...", "profile", "experiments/", "examples/", "KEY", "init", "adopt", "MODEL", *presets)
    found = dict.fromkeys(
        command.split(" > ")[0].replace("multidimensional", "depth")
        for page, command in commands()
        if page in ("README.md", "changing.md", "trust.md", "dvc.md") and not any(word in command for word in elsewhere)
    )
    ran = [command for command in found if command.startswith(("spn ", "snakemake "))]
    assert {"spn plan", "spn check", "spn watch", "snakemake --cores all reproduce"} <= {*ran}
    # Slice (0,0) of an image of digits, which README.md upscales.
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(workspace.folder / "small.png")
    for command in ran:
        workspace.run(*command.split())


def test_a_typo_stops_everything_before_it_begins(workspace: Workspace) -> None:
    params = tiny_params()
    params["stages"]["low"]["training"]["lerning_rate"] = 0.1
    workspace.write_params(params)
    before = contents(workspace)
    failed = workspace.snakemake(fails=True)
    (line,) = [line for line in failed.output.splitlines() if "params.yaml" in line]
    assert line == failed.output.splitlines()[-1]
    assert line.startswith("spn: error: ")
    assert "stages.low.training.lerning_rate" in line
    assert "Traceback" not in failed.output
    assert failed.ran == set()
    assert contents(workspace) == before


def contents(workspace: Workspace) -> dict[str, int]:
    """Return every file of a workspace with its time, but for Snakemake's own and compiled Python."""
    own = {".snakemake", "__pycache__"}
    files = [path for path in workspace.folder.rglob("*") if path.is_file() and not own & set(path.parts)]
    return {str(path): path.stat().st_mtime_ns for path in files}


def test_the_reason_of_a_failed_job_is_the_last_line(workspace: Workspace) -> None:
    shutil.rmtree(workspace.folder / "results/stages/low")
    shutil.rmtree(workspace.folder / "runs")
    (workspace.folder / "runs").write_text("in the way")
    failed = workspace.snakemake("--retries", "1", fails=True)
    lines = failed.output.splitlines()
    assert lines[-1].startswith("spn: error: train low: ")
    assert lines[-1].endswith(" (logs/train/low.log)")
    assert "runs" in lines[-1]
    assert sum(line.startswith("spn: error: ") for line in lines) == 1


def test_a_stale_result_is_refused_and_made_again_whatever_its_times_say(workspace: Workspace) -> None:
    workspace.write_params(with_steps("low", 7))
    workspace.snakemake("--touch")
    refused = workspace.run("spn", "verify", fails=True)
    assert refused.output.startswith(f"spn: error: {LOW}: made from another recipe")
    assert "training.steps: expected 7, got 6" in refused.output
    assert workspace.plan() == AFTER_LOW
    shutil.rmtree(workspace.folder / ".snakemake")  # nor does it matter what Snakemake remembers
    assert workspace.plan() == AFTER_LOW


def test_what_was_made_with_the_weights_of_an_earlier_training_is_made_again(workspace: Workspace) -> None:
    """As after a training with other options, on another machine, whose workflow was killed."""
    tensors, notes = load_tensors(workspace.folder / LOW)
    save_tensors(workspace.folder / LOW, {name: tensor * 1.01 for name, tensor in tensors.items()}, notes)
    (workspace.folder / LOW).touch()
    said = workspace.run("spn", "verify", fails=True).output
    assert "made with other weights of low than those in results" in said
    before = json.loads((workspace.folder / "results/stages/low/metrics.json").read_text())["nats"]
    assert workspace.snakemake().ran == AFTER_LOW - {"train/low"}
    assert json.loads((workspace.folder / "results/stages/low/metrics.json").read_text())["nats"] != before
    workspace.run("spn", "verify")


@pytest.mark.parametrize("gone", [["mlflow"], ["mlflow", "mlflow.db", "mlruns"]], ids=["handle", "store"])
def test_records_that_are_gone_are_made_again(workspace: Workspace, gone: list[str]) -> None:
    for name in gone:
        path = workspace.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert workspace.plan() == {"record/raster", "record/depth", "reproduce"}


def test_a_target_of_its_own_makes_no_more_than_it_needs(workspace: Workspace) -> None:
    params = with_steps("low", 7)
    params["seed"] = 2
    workspace.write_params(params)
    needs = "results/stages/high/metrics.json"
    plan = workspace.snakemake("--dry-run", needs).output
    assert set(re.findall(r"^    log: logs/(\S+)\.log", plan, re.MULTILINE)) == {"train/high", "evaluate/high"}


def test_a_preset_runs_in_a_workspace_of_its_own(workspace: Workspace) -> None:
    inner = workspace.copy(workspace.folder.with_name("inner")).folder  # made before: only the comparison is left to do
    shutil.rmtree(inner / "sources")
    experiment, presets = workspace.folder / "experiments/compare", workspace.folder / "presets"
    for folder in (experiment.parent, presets):
        folder.mkdir()
    (inner / "params.yaml").rename(presets / "compare.yaml")
    inner.rename(experiment)
    workspace.write_params(with_steps("low", 7))  # of no concern to the preset
    before = contents(Workspace(experiment))
    run = workspace.snakemake("compare")
    assert run.ran == {"compare"}
    after = contents(Workspace(experiment))
    written = {path for path, time in after.items() if before.get(path) != time}
    assert written == {f"{experiment}/params.yaml", f"{experiment}/logs/reproduce.log"}
    assert (experiment / "sources").samefile(workspace.folder / "sources")
    metrics = json.loads((experiment / "results/metrics.json").read_text())
    assert re.search(rf"^depth +{metrics['depth']['bits_per_dim']:.4f} ", run.output, re.MULTILINE)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "nope", "--output", "out"], "got nope"),
        (["evaluate", "nope", "--checkpoint", LOW, "--output", "out"], "got nope"),
        (["sample_stage", "nope", "low", "--checkpoint", LOW, "--output", "out"], "got nope"),
        (["sample_stage", "raster", "low", "--checkpoint", LOW, "--output", "out"], "got low"),
        (["sample_stage", "depth", "low", "--checkpoint", LOW, "--output", "out", "--sampler", "best"], "got best"),
        (["evaluate", "low", "--checkpoint", "none.safetensors", "--output", "out"], "none.safetensors: expected"),
        (
            ["evaluate", "low", "--checkpoint", TRAININGS[1], "--output", "out"],
            "high/checkpoint.safetensors: made from another recipe",
        ),
        (["summarise", "nope", "--output", "out/metrics.json"], "got nope"),
        (["record", "nope", "--output", "out/run.json"], "got nope"),
        (["preprocess", "--scale-factor", "9", "--output", "out/S9.h5"], "expected that of a stage (1, 2), got 9"),
        (["check", "nope"], "got nope"),
        (["check", "--params", "none.yaml"], "none.yaml: expected"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_a_mistake_gives_one_line_and_status_2(
    done: Workspace,
    command: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(done.folder)
    if command[0] in ("train", "evaluate", "sample_stage"):
        command = [*command, "--data", "data/digits/S2.h5"]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("spn: error: ")
    assert message in line
    assert not Path("out").exists()


def test_a_stage_trained_elsewhere_is_recorded_from_its_checkpoint(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.folder)
    experiment = open_at("sqlite:///elsewhere.db", Path("elsewhere.json"))
    command = ["record", "depth", "--experiment", "elsewhere.json", "--output", "depth.json"]
    with monkeypatch.context() as patch:
        patch.setitem(stage_run.PATIENCE, "FINISHED", 0.0)  # as when the store goes away amid the history
        assert main(command) == 1
    assert not Path("depth.json").exists()
    assert main(command) == 0
    runs = {run.info.run_name: run for run in experiment.client.search_runs([experiment.id])}
    assert runs.keys() == {"depth", *CHAIN}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for stage in CHAIN:
        rows = read_history(Path(f"results/stages/{stage}/history.csv"))
        curve = experiment.client.get_metric_history(runs[stage].info.run_id, "train_bits_per_dim_estimate")
        assert [point.step for point in curve] == [row["step"] for row in rows]
        assert runs[stage].data.metrics["bits_per_dim"] == runs["depth"].data.metrics[f"bits_per_dim.{stage}"]
