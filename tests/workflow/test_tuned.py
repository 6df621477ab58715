"""A chain with trials through every verb, one after the other in this process."""

from pathlib import Path
from typing import Any

import pytest
from copies import copy_experiment
from experiment import TRAINING, read_history, tiny_params, write_params
from mlflow.entities import Run
from tracked import CURVE, logged, open_at

from spn.checkpoint import load_tensors, save_tensors
from spn.cli import main
from spn.config import Params, load_params
from spn.files import read_json, write_json
from spn.notes import RECIPE
from spn.paths import RESULTS, checkpoint_path, metrics_path
from spn.pipeline.reading import metrics_of_chain
from spn.provenance import audit, recipe_digest
from spn.report.tables import text_table
from spn.tracking import Experiment, load_experiment, stage_run

pytestmark = pytest.mark.slow

TRIALS: list[dict[str, Any]] = [
    {"optimiser": {"learning_rate": 1e-6}},
    {"optimiser": {"learning_rate": 0.02}, "batch_size": 4},
]
DATA, OUTPUT = "data/digits/S1.h5", "results/stages/raster"
CHECKPOINT = f"{OUTPUT}/checkpoint.safetensors"
TRAIN = ["train", "raster", "--data", DATA, "--output", OUTPUT]
VERBS = (
    ["preprocess", "--scale-factor", "1", "--output", DATA],
    TRAIN,
    ["evaluate", "raster", "--data", DATA, "--checkpoint", CHECKPOINT, "--output", OUTPUT],
    [
        "sample_stage",
        "raster",
        "raster",
        "--data",
        DATA,
        "--checkpoint",
        CHECKPOINT,
        "--output",
        "results/chains/raster/raster",
    ],
    ["summarise", "raster", "--output", "results/chains/raster/metrics.json"],
    ["export", "raster", "--data", DATA, "--output", "results/chains/raster"],
    ["record", "raster", "--output", "mlflow/chains/raster.json"],
    ["report", "--data", DATA],
    ["verify"],
)


def tuned(trials: list[dict[str, Any]]) -> dict[str, Any]:
    params = tiny_params()
    del params["stages"]["high"], params["stages"]["low"], params["chains"]["depth"]
    params["stages"]["raster"]["trials"] = trials
    return params


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_params(folder, tuned(TRIALS))
        for verb in VERBS:
            assert main(verb) == 0, verb
    return folder


@pytest.fixture
def params(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The parameters of a copy of the finished experiment, which is the working directory."""
    monkeypatch.chdir(copy_experiment(made, tmp_path / "copy"))
    return load_params(Path("params.yaml"))


def runs_of(experiment: Experiment) -> dict[str, Run]:
    return {run.info.run_name: run for run in experiment.client.search_runs([experiment.id])}


def assert_trials_are_recorded(experiment: Experiment) -> None:
    """The stage has a run, and below it one for each trial, all finished and with their whole curves."""
    runs = runs_of(experiment)
    notes = load_tensors(checkpoint_path("raster"))[1]
    stage = runs.pop("raster, trial 1 of 2"), runs.pop("raster, trial 2 of 2")
    for number, (run, trial) in enumerate(zip(stage, notes["trials"], strict=True), start=1):
        tags, values = run.data.tags, run.data.params
        assert run.info.status == "FINISHED"
        assert (tags["kind"], tags["stage"], tags["trial"]) == ("trial", "raster", str(number))
        changes = {f"training.{key}": str(value) for key, value in trial["changes"].items()}
        assert changes.items() <= values.items()
        assert values["training.steps"] == str(TRAINING["steps"])
        curve = [(row["step"], row[CURVE]) for row in trial["history"]]
        assert logged(experiment, run.info.run_id) == curve
    assert stage[1].data.tags["changes"] == "batch_size 4, optimiser.learning_rate 0.02"
    parents = {run.data.tags["mlflow.parentRunId"] for run in stage}
    (whole,) = [run for run in runs.values() if run.data.tags["kind"] == "stage"]
    assert parents == {whole.info.run_id}
    assert whole.data.tags["taken"] == "trial 2 of 2: batch_size 4, optimiser.learning_rate 0.02"
    assert logged(experiment, whole.info.run_id) == logged(experiment, stage[1].info.run_id)


def test_every_trial_has_a_run_below_that_of_its_stage(params: Params) -> None:
    assert_trials_are_recorded(load_experiment(Path("mlflow/experiment.json")))


def test_trials_that_a_store_lacks_are_recorded_from_the_checkpoint(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = open_at("sqlite:///elsewhere.db", Path("elsewhere.json"))
    command = ["record", "raster", "--experiment", "elsewhere.json", "--output", "raster.json"]
    with monkeypatch.context() as patch:
        patch.setitem(stage_run.PATIENCE, "FINISHED", 0.0)  # as when the store goes away amid the history
        assert main(command) == 1
    assert main(command) == 0
    assert_trials_are_recorded(experiment)


def test_curves_and_tables_are_those_of_the_trial_taken(params: Params) -> None:
    metrics = {"raster": metrics_of_chain(params, "raster", RESULTS)}
    line = "raster: trial 2 of 2 by validation estimate: batch_size 4, optimiser.learning_rate 0.02"
    table = text_table(params, metrics)
    assert table.splitlines()[-2] == line
    assert f"<p>{line}.</p>" in Path("results/plots/gallery.html").read_text()
    trial = load_tensors(checkpoint_path("raster"))[1]["trials"][1]
    validated = [row for row in trial["history"] if "validation_bits_per_dim_estimate" in row]
    curve = read_history(Path("results/plots/curves/raster.csv"))
    assert [row["step"] for row in curve] == [row["step"] for row in validated]
    assert curve[-1]["validation_bits_per_dim_estimate"] == validated[-1]["validation_bits_per_dim_estimate"]
    assert read_history(Path(f"{OUTPUT}/history.csv")) == trial["history"]
    images = TRAINING["steps"] * TRIALS[1]["batch_size"]
    speed = images / trial["history"][-1]["training_seconds"]
    assert metrics["raster"]["training_images_per_second"] == pytest.approx(speed)


def test_a_changed_trial_is_stale_and_names_its_key(params: Params) -> None:
    assert audit(params).problems == []
    write_params(Path(), tuned([TRIALS[0], {"optimiser": {"learning_rate": 0.03}, "batch_size": 4}]))
    (problem,) = audit(load_params(Path("params.yaml"))).problems
    assert problem.reason.endswith("trials.1.optimiser.learning_rate: expected 0.03, got 0.02")


def test_a_tuned_checkpoint_is_adopted_with_its_trials(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    old = "0" * 64
    weights, notes = load_tensors(checkpoint_path("raster"))
    notes[RECIPE]["code_digest"] = old
    save_tensors(checkpoint_path("raster"), weights, notes)
    metrics = read_json(metrics_path("raster"))
    metrics[RECIPE]["training"] = metrics["recipe_digest"] = recipe_digest(notes[RECIPE])
    write_json(metrics_path("raster"), metrics)
    assert main(["adopt", "raster"]) == 0
    assert "validation and the choice among trials" in capsys.readouterr().out
    adopted = load_tensors(checkpoint_path("raster"))[1]
    assert adopted["trials"] == notes["trials"]
    assert main(TRAIN) == 0
    assert load_tensors(checkpoint_path("raster"))[1] == adopted


def test_a_checkpoint_of_other_trials_is_not_adopted(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    for trials, difference in (
        ([TRIALS[1], TRIALS[0]], "trials.0.batch_size: expected 4, got 8"),
        ([*TRIALS, {}], "trials.2.batch_size: expected 8, got None"),
        ([], "trials.0.batch_size: expected None, got 8"),
    ):
        write_params(Path(), tuned(trials))
        assert main(["adopt", "raster"]) == 2
        (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("spn: error: ")]
        assert line.endswith(f"because only code is adopted: {difference}")
