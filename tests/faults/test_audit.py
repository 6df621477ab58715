"""Results that are not what they should be: told by name, made again, and taken by nobody."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from copies import copy_experiment
from experiment import tiny_params, write_params

from spn.cli import main
from spn.config import InputError, Params, load_params
from spn.paths import request_path
from spn.pipeline.verify import verify_results
from spn.provenance import ask, audit, results_of
from spn.provenance.results import Result

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

SAMPLES = "results/chains/{}/samples.h5"


def small_params() -> dict[str, Any]:
    params = tiny_params()
    params["data"]["limit"] = {"train": 20, "validation": 4, "test": 4}
    for stage in params["stages"].values():
        stage["training"] |= {"steps": 2, "validate_every": 2}
    params["stages"]["low"]["class_conditional"] = True
    params["chains"]["depth"]["temperature"] = {"high": 0.9}
    params["sampling"]["num_images"] = 3
    return params


def data_of(params: Params, stage: str) -> str:
    return f"data/digits/S{params.stage_plans[stage].scale_factor}.h5"


def sample_command(chain: str, stage: str, params: Params, output: str, given: str | None = None) -> list[str]:
    weights = f"results/stages/{stage}/checkpoint.safetensors"
    command = [
        "sample_stage",
        chain,
        stage,
        "--data",
        data_of(params, stage),
        "--checkpoint",
        weights,
        "--output",
        output,
    ]
    return command if given is None else [*command, "--given", given]


def make_everything(params: Params) -> None:
    """Do what the workflow does, in this process."""
    commands = [["preprocess", "--scale-factor", str(s), "--output", f"data/digits/S{s}.h5"] for s in params.cuts]
    for stage in params.stage_plans:
        data, output = data_of(params, stage), f"results/stages/{stage}"
        commands.append(["train", stage, "--data", data, "--output", output])
        weights = f"{output}/checkpoint.safetensors"
        commands.append(["evaluate", stage, "--data", data, "--checkpoint", weights, "--output", output])
    for name, chain in params.chains.items():
        given = None
        for stage in chain.stages:
            output = f"results/chains/{name}/{stage}"
            commands.append(sample_command(name, stage, params, output, given))
            given = f"{output}/samples.h5"
        commands.append(["summarise", name, "--output", f"results/chains/{name}/metrics.json"])
        commands.append(["export", name, "--data", "data/digits/S1.h5", "--output", f"results/chains/{name}"])
        commands.append(["record", name, "--output", f"mlflow/chains/{name}.json"])
    commands.append(["report", "--data", "data/digits/S1.h5"])
    for command in commands:
        assert main(command) == 0, command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small experiment of which everything is made."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_everything(load_params(write_params(folder, small_params())))
        assert main(["verify"]) == 0
    return folder


@pytest.fixture
def params(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The experiment's parameters, in a copy of it that a test may spoil."""
    monkeypatch.chdir(copy_experiment(folder, tmp_path / "copy"))
    params = load_params(Path("params.yaml"))
    assert audit(params).problems == []
    return params


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped_first(path: Path) -> None:
    flip(path, 40)


def flipped_last(path: Path) -> None:
    flip(path, -3)


def flip(path: Path, place: int) -> None:
    """Change a bit of a byte, and no time of the file."""
    times, content = path.stat(), bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def everything_after(params: Params, first: Path) -> set[Path]:
    """Name a result and all that is made from it, directly or not."""
    found = {first}
    for result in results_of(params):
        if found & {*result.needs}:
            found.add(result.path)
    return found


def check_told(params: Params, result: Result, file: Path, reads_all: bool) -> None:
    """Check that what was done to a file of a result is told by its name, and has that result made again."""
    where = f"{result.path} or {file}, in"
    with pytest.raises(InputError) as refused:
        list(verify_results(params))
    assert len(str(refused.value).splitlines()) == 1
    assert str(refused.value).startswith((f"{result.path}: ", f"{file}: ")), f"{where} {refused.value}"
    if reads_all:  # the workflow reads of large files what they say of themselves; whoever uses them reads the rest
        return
    found = audit(params)
    assert [problem.result.path for problem in found.problems] == [result.path]
    assert {each.path for each in results_of(params)} - found.sound.keys() == everything_after(params, result.path)
    ask(params, found)
    for each in results_of(params):
        newest = max((path.stat().st_mtime_ns for path in each.files if path.exists()), default=0)
        asked = request_path(each.path).stat().st_mtime_ns > newest
        assert asked == (each.path == result.path and result.path.exists()), each.path


DAMAGES: list[Callable[[Path], None]] = [Path.unlink, cut, emptied, flipped_first, flipped_last]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_every_damaged_file_is_told_by_name(params: Params, damage: Callable[[Path], None]) -> None:
    for result in results_of(params):
        for file in result.files:
            content, times = file.read_bytes(), file.stat()
            damage(file)
            of_bulk = (damage, file.suffix) in ((flipped_last, ".h5"), (flipped_last, ".safetensors"), (cut, ".h5"))
            check_told(params, result, file, reads_all=of_bulk)
            file.write_bytes(content)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert audit(params).problems == []


def test_every_file_of_another_stage_or_chain_is_told_by_name(params: Params) -> None:
    results = results_of(params)
    pairs = 0
    for result in results:
        for other in results:
            for file, foreign in zip(result.files, other.files, strict=False):
                records = file.parent == foreign.parent == Path("mlflow/chains")
                if result is other or not (file.name == foreign.name or records):
                    continue
                content, times = file.read_bytes(), file.stat()
                shutil.copy2(foreign, file)
                check_told(params, result, file, reads_all=False)
                file.write_bytes(content)
                os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
                pairs += 1
    assert pairs == 6 * 6 + 2 * 6 + 3 * 2  # three stages and samples; figures of stages; what two chains have
    assert audit(params).problems == []


def test_a_whole_result_of_another_stage_or_chain_is_told_by_name(params: Params) -> None:
    for path, other in (
        ("results/stages/low", "results/stages/high"),
        ("results/chains/depth/high", "results/chains/raster/raster"),
        ("results/chains/depth/low", "results/chains/depth/high"),
    ):
        shutil.move(path, "kept")
        shutil.copytree(other, path)
        with pytest.raises(InputError, match=f"^{path}/[a-z]+[.][a-z0-9]+: made from another recipe"):
            list(verify_results(params))
        shutil.rmtree(path)
        shutil.move("kept", path)
    assert audit(params).problems == []


Change = Callable[[dict[str, Any]], object]
OTHER_SAMPLING: dict[str, Change] = {
    "num_images": lambda params: params["sampling"].update(num_images=4),
    "seed": lambda params: params["sampling"].update(seed=2),
    "temperature": lambda params: params["chains"]["depth"].update(temperature={"high": 0.8}),
    "label": lambda params: params["sampling"].update({"class": 3}),
}


@pytest.mark.parametrize("change", OTHER_SAMPLING)
def test_verify_refuses_samples_of_other_settings(
    params: Params, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = small_params()
    OTHER_SAMPLING[change](changed)
    write_params(Path(), changed)
    assert main(["verify"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    chain = "depth/high" if change in ("temperature", "label") else "raster/raster"
    assert line.startswith(f"spn: error: {SAMPLES.format(chain)}: made from another recipe")
    assert f": {change}: expected " in line


def refused_sample(capsys: pytest.CaptureFixture[str], command: list[str]) -> str:
    """Run `spn sample_stage`, which must refuse something in one line, and write nothing; return the line."""
    capsys.readouterr()
    assert main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert not Path("out").exists()
    return line.removeprefix("spn: error: ")


OTHERS: dict[str, tuple[Change, list[str], str]] = {
    **{name: (change, [], f": {name}: expected") for name, change in OTHER_SAMPLING.items()},
    "trained otherwise": (lambda params: params.update(seed=2), [], ": training: expected"),
    "--class": (lambda params: None, ["--class", "3"], ": label: expected 3, got None"),
    "--exact": (lambda params: None, ["--exact"], ": exact: expected True, got False"),
}


@pytest.mark.parametrize("change", OTHERS)
def test_sample_refuses_stale_samples(params: Params, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    edit, options, message = OTHERS[change]
    changed = small_params()
    edit(changed)
    write_params(Path(), changed)
    given = SAMPLES.format("depth/high")
    line = refused_sample(capsys, [*sample_command("depth", "low", params, "out", given), *options])
    assert line.startswith(f"{given}: made from another recipe")
    assert message in line


def test_sample_refuses_what_is_missing_or_foreign(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    def told(given: str | None, stage: str = "low") -> str:
        return refused_sample(capsys, sample_command("depth", stage, params, "out", given))

    high, low = SAMPLES.format("depth/high"), SAMPLES.format("depth/low")
    assert told(None) == "--given: expected the samples of high, after which low comes in chain depth"
    assert told(low, "high").startswith("--given: expected nothing for high, the first stage of chain depth")
    assert told("none.h5").startswith("none.h5: expected")
    foreign = SAMPLES.format("raster/raster")
    assert told(foreign) == f"{foreign}: expected samples of chain depth, got raster"
    assert told(low) == f"{low}: expected samples of stage high, got low"
    for other in ("data/digits/S2.h5", "results/stages/high/checkpoint.safetensors", "params.yaml"):
        line = told(other)
        assert line.startswith(f"{other}: ")
        assert "delete" not in line or other.startswith("results")
    flip(Path(high), -3)
    assert told(high).startswith(f"{high}: ")


def test_sample_refuses_samples_of_other_data(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    """Such as those of a source in which a picture changed: the parameters are the same."""
    from spn.data.images import read_images, write_images
    from spn.provenance import sampling_recipe

    given = Path(SAMPLES.format("depth/high"))
    images, notes = read_images(given)
    notes["recipe"] = sampling_recipe(params, "depth", "high", "0" * 64)
    write_images(given, images, notes)
    line = refused_sample(capsys, sample_command("depth", "low", params, "out", str(given)))
    assert line.startswith(f"{given}: made from another recipe than params.yaml asks for: data_digest: expected")


def test_another_cut_makes_the_slices_again_and_trains_nothing(params: Params) -> None:
    """What a stage is made from is the images, however they are cut."""
    changed, slices = small_params(), Path("data/digits/S2.h5")
    for name, bits in (("wide", [0, 3]), ("narrow", [3, 5])):
        changed["stages"][name] = changed["stages"]["high"] | {"bits": bits}
    changed["chains"]["other"] = {"stages": ["wide", "narrow"]}
    after = load_params(write_params(Path(), changed))
    (outdated,) = [problem for problem in audit(after).problems if not problem.is_missing]
    assert (outdated.result.path, outdated.reason) == (
        slices,
        f"{slices}: made from another recipe than params.yaml asks for: cuts: expected [0, 2, 3, 5], got [0, 2, 5]",
    )
    content, made = slices.read_bytes(), set(audit(params).sound)
    assert main(["preprocess", "--scale-factor", "2", "--output", str(slices)]) == 0
    assert slices.read_bytes() != content
    # The report, which is of all chains, is the only result that is made again.
    assert {result.path for result in results_of(params)} == made
    assert made - set(audit(after).sound) == {Path("results/plots/report.json")}
    for stage in ("high", "low"):
        weights = Path(f"results/stages/{stage}/checkpoint.safetensors")
        content, time = weights.read_bytes(), weights.stat().st_mtime_ns
        assert main(["train", stage, "--data", str(slices), "--output", str(weights.parent)]) == 0
        assert (weights.read_bytes(), weights.stat().st_mtime_ns) == (content, time)


def test_figures_of_another_recipe_are_neither_recorded_nor_shown(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each verb looks for itself: a person may call it without the workflow."""
    chain, weights = Path("results/chains/depth/metrics.json"), Path("results/stages/low/checkpoint.safetensors")
    for path, foreign in ((chain, Path("results/chains/raster/metrics.json")), (weights, weights.parents[1] / "high")):
        content = path.read_bytes()
        shutil.copy(foreign / path.name if foreign.is_dir() else foreign, path)
        for command in (["record", "depth", "--output", "out.json"], ["report", "--data", "data/digits/S1.h5"]):
            capsys.readouterr()
            assert main(command) == 2
            assert capsys.readouterr().err.startswith(f"spn: error: {path}: made from another recipe")
        path.write_bytes(content)
    assert not Path("out.json").exists()
    assert json.loads(Path("results/plots/report.json").read_text())["recipe"]
    assert audit(params).problems == []
