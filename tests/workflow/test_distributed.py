"""Several processes a stage: the same batches, losses, figures and samples as one, and one that writes."""

import os
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from experiment import TRAINING, read_history, tiny_params
from processes import (
    DATA,
    context,
    host_store,
    make_experiment,
    start,
    start_several,
    torchrun_variables,
    train_command,
)
from torch.nn.parallel import DistributedDataParallel

from spn.checkpoint import load_tensors
from spn.cli import main
from spn.config import InputError
from spn.data.images import read_images
from spn.distributed import any_of, gradient_group, joined
from spn.files import read_json
from spn.notes import read_tensor_notes
from spn.tracking import load_experiment
from spn.training.history import Row

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

EXACT = {"step", "learning_rate"}
TIMES = {"images_per_second", "training_seconds"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny experiment, trained by one process; no dropout, which every process draws for itself."""
    params = tiny_params()
    params["data"] |= {"validation": 40, "test": 100, "limit": {"train": 100, "validation": 40, "test": 40}}
    for stage in params["stages"].values():
        stage["model"]["dropout"] = 0.0
        stage["training"] |= {"steps": 12, "validate_every": 4}
    params["stages"]["high"]["training"]["batch_size"] = 9  # an odd number, so that the shares differ
    params["stages"]["high"]["trials"] = [{}, {"optimiser": {"learning_rate": 1e-5}}]
    adversarial = {"start": 0.4, "warmup": 0.3, "width": 4}
    training = TRAINING | {"steps": 12, "validate_every": 4, "batch_size": 9, "clip_norm": None}
    first = {"downsampling": 2, "codebook": 32, "code_width": 4, "width": 8, "training": training}
    params["first_stages"] = {
        "vq": first | {"adversarial": adversarial},
        "restarting": first | {"restart_after": 2},
    }
    for name in params["first_stages"]:
        params["stages"][f"codes_of_{name}"] = params["stages"]["raster"] | {"codes": name}
        params["chains"][name] = {"stages": [f"codes_of_{name}"]}
    params["stages"]["raster"]["training"] |= {"steps": 2000, "validate_every": 1000}
    folder = make_experiment(tmp_path_factory.mktemp("distributed"), params)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in ("high", "low", "vq", "restarting"):
            assert main(train_command(stage, f"one/{stage}")) == 0
    return folder


def together(folder: Path, command: list[str], log: str) -> str:
    """Run a verb in two processes; return what they said."""
    processes = start_several(folder, command, 2, log)
    for process in processes:
        process.join(300)
    said = "\n".join((folder / f"{log}{rank}").read_text() for rank in range(2))
    assert [process.exitcode for process in processes] == [0, 0], said
    return said


def assert_same_history(one: list[Row], two: list[Row], rel: float = 1e-5) -> None:
    assert [row.keys() for row in one] == [row.keys() for row in two]
    for left, right in zip(one, two, strict=True):
        for key in left.keys() - TIMES:
            assert right[key] == (left[key] if key in EXACT else pytest.approx(left[key], rel=rel)), (
                key,
                left["step"],
            )


@pytest.mark.parametrize("stage", ["low", "high", "vq", "restarting"])
def test_two_processes_train_as_one(folder: Path, stage: str) -> None:
    # By torchrun, as on a cluster, and by processes that find each other as torchrun's do.
    if stage == "low":
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "spn", *train_command(stage, f"two/{stage}"), "--gpus", "2", "--device", "cpu"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "(process 2 of 2)" in done.stderr
    else:
        # Of the shares of 5 and 4 images, two at a time.
        parts = ["--micro-batch", "2"] if stage == "high" else []
        together(folder, [*train_command(stage, f"two/{stage}"), *parts], f"train_{stage}")
    one, two = (load_tensors(folder / place / stage / "checkpoint.safetensors") for place in ("one", "two"))
    assert one[1]["recipe"] == two[1]["recipe"]
    assert one[1].get("taken") == two[1].get("taken") == (0 if stage == "high" else None)
    if stage == "restarting":
        # A restarted code has hardly a gradient, which AdamW makes as large as any: so rounding is, too.
        assert_same_history(one[1]["history"], two[1]["history"], rel=1e-2)
        return
    assert_same_history(one[1]["history"], two[1]["history"])
    for name, weight in one[0].items():
        torch.testing.assert_close(two[0][name], weight, rtol=1e-3, atol=1e-4)
    assert_same_history(two[1]["history"], read_history(folder / "two" / stage / "history.csv"))


def test_two_processes_evaluate_and_sample_as_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for stage in ("high", "low"):
        given = ["--given", "one/high/sample_stage/samples.h5"] if stage == "low" else []
        common = [stage, "--data", DATA[stage], "--checkpoint", f"one/{stage}/checkpoint.safetensors"]
        for verb, options in (("evaluate", []), ("sample_stage", ["--batch-size", "1", *given])):
            command = [verb, *(["depth"] if verb == "sample_stage" else []), *common, *options]
            assert main([*command, "--output", f"one/{stage}/{verb}"]) == 0
            together(folder, [*command, "--output", f"two/{stage}/{verb}"], f"{verb}_{stage}")
        images = [read_images(Path(place, stage, "sample_stage/samples.h5"))[0] for place in ("one", "two")]
        assert torch.equal(*images)
        nats = [np.load(f"{place}/{stage}/evaluate/nats.npy") for place in ("one", "two")]
        assert np.array_equal(*nats)
        metrics = [read_json(Path(place, stage, "evaluate/metrics.json")) for place in ("one", "two")]
        assert metrics[0] == metrics[1]


def test_two_processes_encode_as_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    command = ["extract_codes", "vq", "--data", DATA["vq"], "--checkpoint", "one/vq/checkpoint.safetensors"]
    assert main([*command, "--output", "one/codes"]) == 0
    together(folder, [*command, "--output", "two/codes"], "extract_codes")
    for file in ("codes.h5", "metrics.json", "reconstructions.png"):
        assert Path("one/codes", file).read_bytes() == Path("two/codes", file).read_bytes()
    assert "train codes" not in Path("extract_codes1").read_text()


def stop_when_training(processes: list[BaseProcess], log: Path) -> None:
    """Send SIGTERM to all processes once the first has told of a step."""
    while "bits/dim" not in (log.read_text() if log.exists() else ""):
        assert all(process.is_alive() for process in processes)
        time.sleep(0.05)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [143] * len(processes)


def test_sigterm_stops_two_at_the_same_step_and_one_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = train_command("raster")
    stop_when_training(start_several(folder, command, 2, "stopped"), folder / "stopped0")
    (state,) = (folder / "out/runs").glob("raster-*.safetensors")
    first = read_tensor_notes(state)["step"]
    assert first > 0
    for log in ("stopped0", "stopped1"):
        assert f"stopped by SIGTERM and saved after step {first};" in (folder / log).read_text()
    stop_when_training([start(folder, command, "alone")], folder / "alone")
    second = read_tensor_notes(state)["step"]
    assert f" {first}/2000 " in (folder / "alone").read_text()
    assert second > first
    # One of the two has logged, and the one that went on after it: a curve without gaps, and a run that was killed.
    monkeypatch.chdir(folder)
    experiment = load_experiment(Path("experiment.json"))
    (run,) = experiment.client.search_runs([experiment.id], "attributes.run_name = 'raster'")
    assert run.info.status == "KILLED"
    curve = experiment.client.get_metric_history(run.info.run_id, "train_bits_per_dim_estimate")
    assert [point.step for point in curve] == [row["step"] for row in read_tensor_notes(state)["history"]]


@pytest.mark.parametrize(
    ("what", "places"), [("checkpoint", ("one/low", "none")), ("state of the training", ("none", "none"))]
)
def test_processes_that_find_another_state_refuse_to_work_together(
    folder: Path, what: str, places: tuple[str, str]
) -> None:
    port = {"MASTER_PORT": str(host_store())}
    logs = [f"{what}{rank}" for rank in range(2)]
    processes = [
        start(
            folder,
            [*train_command("low", output), "--runs", runs],
            logs[rank],
            torchrun_variables(rank, 2) | port,
        )
        for rank, (output, runs) in enumerate(zip(places, ("one/low/runs", "none/runs"), strict=True))
    ]
    for rank, process in enumerate(processes):
        process.join(60)
        assert process.exitcode == 2
        told = f"process {rank + 1} of 2: expected the same {what} in all of them"
        assert told in (folder / logs[rank]).read_text()
    assert not list((folder / "none").rglob("*.safetensors"))


def end_together(rank: int, ports: list[int]) -> None:
    """Leave groups one after the other, at once after something was agreed on, while DistributedDataParallel lives."""
    torch.set_num_threads(1)
    os.environ |= torchrun_variables(rank, 2)
    for port in ports:
        os.environ["MASTER_PORT"] = str(port)
        with joined("a recipe"):
            model = DistributedDataParallel(torch.nn.Linear(8, 8), process_group=gradient_group(torch.device("cpu")))
            model(torch.ones(1, 8)).sum().backward()
            any_of(False)
        del model


def test_processes_end() -> None:
    # A process that hangs does so in the first ten rounds or so.
    ports = [host_store() for _ in range(20)]
    processes = [context().Process(target=end_together, args=(rank, ports), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]


def join_for_another_recipe(rank: int, port: int) -> None:
    os.environ |= torchrun_variables(rank, 2) | {"MASTER_PORT": str(port)}
    told = f"process {rank + 1} of 2: expected the same parameters, code and data in all"
    with pytest.raises(InputError, match=told), joined(f"recipe {rank}"):
        raise AssertionError("joined all the same")


def test_processes_that_loaded_other_code_refuse_to_work_together() -> None:
    port = host_store()
    processes = [context().Process(target=join_for_another_recipe, args=(rank, port), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
