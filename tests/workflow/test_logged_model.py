"""A chain's model in MLflow: logged once, linked to its run, loaded, registered, and served over loopback."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pytest
from experiment import tiny_params
from mlflow_server import free_port
from model_files import rgb_params, write_model
from tracked import open_at

import spn
from spn.config import InputError
from spn.tracking import Experiment
from spn.tracking.logged_model import log_chain_model
from spn.tracking.runs import open_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), rgb_params(), "depth")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("store")
    return open_at(f"sqlite:///{folder}/mlflow.db", folder / "experiment.json")


@pytest.fixture(scope="module")
def model_id(store: Experiment, path: Path) -> str:
    run = open_run(store, "depth", {"kind": "chain", "chain_digest": "1"}, "spn record")
    return log_chain_model(store, run, "depth", path)


@pytest.fixture
def tracked(store: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", store.uri)
    mlflow.set_tracking_uri(store.uri)


def test_a_model_is_logged_once_and_linked_to_run_and_figure(store: Experiment, path: Path, model_id: str) -> None:
    run = open_run(store, "depth", {"kind": "chain", "chain_digest": "1"}, "spn record")
    assert log_chain_model(store, run, "depth", path) == model_id
    (model,) = store.client.search_logged_models([store.id])
    assert (model.model_id, model.name, model.source_run_id) == (model_id, "depth", run.info.run_id)
    assert [(each.key, each.value) for each in model.metrics or []] == [("bits_per_dim", 1.5)]
    assert model.params == {"chain": "depth", "data": "photos", "bits": "4", "weights": "float32"}
    outputs = store.client.get_run(run.info.run_id).outputs
    assert outputs is not None
    assert [each.model_id for each in outputs.model_outputs] == [model_id]


@pytest.mark.usefixtures("tracked")
def test_mlflow_loads_the_model_which_predicts_bits_per_dim(model_id: str, path: Path) -> None:
    loaded = mlflow.pyfunc.load_model(f"models:/{model_id}")
    images = spn.load(path).sample(3, seed=4)
    assert np.array_equal(loaded.predict(images), spn.load(path).bits_per_dim(images))
    signature = loaded.metadata.signature
    assert signature.inputs.to_dict()[0]["tensor-spec"] == {"dtype": "uint8", "shape": (-1, 8, 8, 3)}
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{model_id}"))
    assert not [each.name for each in folder.rglob("*") if each.suffix in (".pkl", ".pickle")]


def test_a_conditional_model_scores_nothing_without_a_class(tmp_path: Path) -> None:
    raw = tiny_params()
    raw["stages"]["low"]["class_conditional"] = True
    path, store = (
        write_model(tmp_path / "classes", raw, "depth"),
        open_at(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "experiment.json"),
    )
    run = open_run(store, "depth", {"kind": "chain", "chain_digest": "1"}, "spn record")
    log_chain_model(store, run, "depth", path)
    (artefact,) = tmp_path.rglob("MLmodel")
    loaded = mlflow.pyfunc.load_model(str(artefact.parent))
    images = spn.load(path).sample(3, seed=4)
    assert np.array_equal(loaded.predict(images, {"label": 7}), spn.load(path).bits_per_dim(images, label=7))
    with pytest.raises(InputError, match="label: expected the classes of the images, because depth is conditioned"):
        loaded.predict(images)


@pytest.mark.usefixtures("tracked")
def test_a_registered_model_is_served_over_loopback(model_id: str, path: Path) -> None:
    version = mlflow.register_model(f"models:/{model_id}", "depth_of_photos")
    port, images = free_port(), spn.load(path).sample(2, seed=4)
    options = ["-m", f"models:/depth_of_photos/{version.version}", "--env-manager", "local"]
    command = [sys.executable, "-m", "mlflow", "models", "serve", *options, "-h", "127.0.0.1", "-p", str(port)]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            found = predicted(f"http://127.0.0.1:{port}/invocations", {"inputs": images.tolist()})
        finally:
            server.terminate()
    assert found == pytest.approx(spn.load(path).bits_per_dim(images).tolist())


def predicted(address: str, body: object) -> list[float]:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    for _ in range(120):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())["predictions"]
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server did not answer")
