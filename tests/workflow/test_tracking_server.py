"""Training and recording with a real `mlflow server`, one that is killed and comes back, and one that is not there."""

from pathlib import Path

import pytest
from experiment import tiny_params
from mlflow_server import MlflowServer, listening
from processes import make_experiment, start, train_command
from tracked import assert_recorded, logged, runs, wait_for

from spn.cli import main
from spn.files import read_json, write_json
from spn.notes import read_tensor_notes
from spn.tracking import Experiment, load_experiment

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

STEPS = 300


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> MlflowServer:
    folder = tmp_path_factory.mktemp("server")
    with MlflowServer(folder, folder / "log", "server") as server:
        yield server


@pytest.fixture(scope="module")
def folder(server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny experiment, with a long stage, in the store that the environment named when it was made."""
    params = tiny_params()
    params["stages"]["low"]["training"] |= {"steps": STEPS, "validate_every": 100}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server.address)
        return make_experiment(tmp_path_factory.mktemp("experiment"), params)


@pytest.fixture
def experiment(folder: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """The experiment, in whose folder the test runs."""
    monkeypatch.chdir(folder)
    experiment = load_experiment(Path("experiment.json"))
    assert experiment.uri == server.address
    return experiment


def test_the_server_listens_to_this_machine_alone(server: MlflowServer) -> None:
    assert listening(server.address) == {"127.0.0.1"}


def test_a_chain_is_trained_and_recorded_with_its_samples(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, chain = "results/stages/raster", "results/chains/raster"
    trained = ["raster", "--data", "S1.h5"]
    made = [*trained, "--checkpoint", f"{stage}/checkpoint.safetensors"]
    for command in (
        ["train", *trained, "--experiment", "experiment.json", "--output", stage],
        ["evaluate", *made, "--output", stage],
        ["sample_stage", "raster", *made, "--output", f"{chain}/raster"],
        ["summarise", "raster", "--output", f"{chain}/metrics.json"],
        ["export", "raster", "--data", "S1.h5", "--output", chain],
        ["record", "raster", "--experiment", "experiment.json", "--output", "run.json"],
    ):
        assert main(command) == 0
    run_id = read_json(Path("run.json"))["run_id"]
    assert f"  raster      {experiment.uri}/#/experiments/{experiment.id}/runs/{run_id}?" in capsys.readouterr().out
    assert experiment.client.get_run(run_id).info.artifact_uri.startswith("mlflow-artifacts:")
    for name in ("samples.png", "samples_1.png"):
        kept = experiment.client.download_artifacts(run_id, name, str(tmp_path))
        assert Path(kept).read_bytes() == Path(chain, "raster/samples.png").read_bytes()
    stage_id = experiment.client.get_run(run_id).data.tags["stage_run.raster"]
    weights = experiment.client.download_artifacts(stage_id, "checkpoint.safetensors", str(tmp_path))
    assert Path(weights).read_bytes() == Path(stage, "checkpoint.safetensors").read_bytes()
    assert experiment.client.get_run(stage_id).data.metrics["bits_per_dim"] > 0
    assert len(logged(experiment, stage_id)) == 6


def test_a_training_outlives_a_server_that_is_killed(experiment: Experiment, server: MlflowServer) -> None:
    training = start(Path(), train_command("low"))
    wait_for(lambda: runs(experiment, "low") and logged(experiment, runs(experiment, "low")[0].info.run_id))
    server.kill()
    checkpoint = Path("out/checkpoint.safetensors")
    assert not checkpoint.exists()
    training.join(120)
    assert training.exitcode == 0
    trained = checkpoint.read_bytes()
    assert read_tensor_notes(checkpoint)["history"][-1]["step"] == STEPS
    said = Path("log").read_text()
    assert [said.count(f"spn: {what}") for what in ("lost the MLflow store", "the MLflow store")] == [1, 1]
    assert "Traceback" not in said
    server.start()
    assert main(train_command("low")) == 0
    assert checkpoint.read_bytes() == trained
    assert_recorded(experiment, "low", Path("out/history.csv"))


@pytest.mark.parametrize("handle", ["nobody.json", "none.json"])
@pytest.mark.parametrize("verb", ["train", "record"])
def test_a_server_that_is_not_there_is_told_of_in_one_line(
    experiment: Experiment,
    verb: str,
    handle: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nobody = "http://127.0.0.1:9"
    write_json(Path("nobody.json"), {"uri": nobody, "id": experiment.id})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nobody)  # which counts where there is no handle
    data = ["--data", "S1.h5"] if verb == "train" else []
    place = "nobody.json: " if handle == "nobody.json" else ""
    assert main([verb, "raster", *data, "--experiment", handle, "--output", "nothing.json"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"spn: error: {place}expected the MLflow store {nobody} to answer, got: [Errno 111] ")
    assert not Path("nothing.json").exists()
    assert not Path("none.json").exists()
