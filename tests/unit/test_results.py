"""The audit of a small experiment with fabricated results: what is found, what is said of it, what is asked for."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment import codes_params, write_params
from fabricated import (
    HANDLE,
    MADE,
    SOURCE_DIGEST,
    SPLIT,
    WHOLE,
    after,
    files_of,
    made_params,
    notes_of,
    params,
    write_notes,
)

from spn.checkpoint import save_tensors
from spn.config import InputError, Params, load_params
from spn.files import write_json
from spn.notes import same_weights
from spn.provenance import Audit, asked_results, audit, check_recipe, is_clone, results_of
from spn.provenance.results import recorded_in

__all__ = ["params"]

REMEDY = "delete it and run the workflow again"
RECORDS = {"mlflow/chains/raster.json", "mlflow/chains/depth.json"}


def told(found: Audit) -> dict[str, str]:
    """Return what is said of each result that is not sound, by its path."""
    return {str(problem.result.path): problem.reason for problem in found.problems}


def check_alone(found: Audit, path: str, reason: str, is_missing: bool = False) -> None:
    """Check that one result is told of, and that all but it and what is made from it is sound."""
    assert told(found) == {path: reason}
    assert [problem.is_missing for problem in found.problems] == [is_missing]
    assert {*map(str, found.sound)} == MADE.keys() - after(path)


def test_results_come_after_what_they_are_made_from(params: Params) -> None:
    results = results_of(params)
    assert [str(result.path) for result in results] == [*MADE]
    assert {str(result.path): {*map(str, result.needs)} for result in results} == {
        path: made.needs for path, made in MADE.items()
    }
    assert {str(result.path): {*result.networks} for result in results} == {
        path: {*notes_of(params, path).get("trained", {})} for path in MADE
    }
    assert {str(result.path): [*result.files] for result in results} == {path: files_of(path) for path in MADE}


def test_samples_are_made_from_those_of_the_stage_right_before(tmp_path: Path) -> None:
    raw = made_params()
    raw["stages"]["middle"] = copy.deepcopy(raw["stages"]["low"]) | {"bits": [2, 3]}
    raw["stages"]["low"]["bits"] = [3, 5]
    raw["chains"]["depth"]["stages"] = ["high", "middle", "low"]
    params = load_params(write_params(tmp_path, raw))
    (needs,) = [
        result.needs for result in results_of(params) if result.path == Path("results/chains/depth/low/samples.h5")
    ]
    assert {*map(str, needs)} == {
        "results/stages/low/checkpoint.safetensors",
        "results/chains/depth/middle/samples.h5",
    }


def test_results_made_with_the_weights_of_an_earlier_training_are_outdated(params: Params) -> None:
    """Trainings of one recipe differ between machines and options."""
    checkpoint = "results/stages/high/checkpoint.safetensors"
    save_tensors(Path(checkpoint), {"weight": torch.ones(1)}, notes_of(params, checkpoint))
    assert {*told(audit(params))} == {"results/stages/high/metrics.json", "results/chains/depth/high/samples.h5"}
    found: set[str] = set()
    while outdated := told(audit(params)):
        assert outdated == {path: f"{path}: made with other weights of high than those in results" for path in outdated}
        found |= outdated.keys()
        # As if the workflow was killed after it had made these again.
        for path in outdated:
            write_notes(path, notes_of(params, path))
    assert found == {path for path in MADE if "high" in notes_of(params, path).get("trained", {})}


def test_results_of_codes_are_made_with_their_first_stage_too(tmp_path: Path) -> None:
    networks = {
        str(result.path): {*result.networks}
        for result in results_of(load_params(write_params(tmp_path, codes_params())))
    }
    folder, both = "results/chains/latent", {"vq", "codes2", "codes1"}
    assert networks["results/stages/vq/codes.h5"] == {"vq"}
    assert networks["results/stages/codes1/metrics.json"] == {"vq", "codes1"}
    assert networks[f"{folder}/codes2/samples.h5"] == {"vq", "codes2"}
    made = ("codes1/samples.h5", "metrics.json", "model.safetensors")
    assert all(networks[f"{folder}/{name}"] == both for name in made)
    assert networks["results/plots/report.json"] == both | {"raster", "high", "low"}


def test_results_made_with_other_weights_of_one_network_are_not_put_together() -> None:
    first, second = Path("first.json"), Path("second.json")
    parts = {first: {"trained": {"high": "1"}}, second: {"trained": {"high": "1", "low": "2"}}}
    assert same_weights(parts) == {"high": "1", "low": "2"}
    parts[second]["trained"]["high"] = "3"
    with pytest.raises(InputError, match=r"^second\.json: expected the weights of high that first\.json was made with"):
        same_weights(parts)


def test_results_that_are_made_from_what_they_must_be_are_sound(params: Params) -> None:
    found = audit(params)
    assert told(found) == {}
    assert {str(path): notes["recipe"] for path, notes in found.sound.items()} == {
        path: notes_of(params, path)["recipe"] for path in MADE
    }
    assert [*map(str, found.sound)] == [*MADE]
    assert found.unread == []


@pytest.mark.parametrize("path", MADE)
def test_a_missing_result_is_told(params: Params, path: str) -> None:
    Path(path).unlink()
    check_alone(audit(params), path, f"{path}: expected a result, found no file", is_missing=True)


@pytest.mark.parametrize("path", MADE)
def test_a_result_of_another_recipe_is_told(params: Params, path: str) -> None:
    notes = notes_of(params, path)
    code = notes["recipe"]["code_digest"]
    write_notes(path, notes | {"recipe": notes["recipe"] | {"code_digest": "old"}})
    reason = f"made from another recipe than params.yaml asks for: code_digest: expected {code}, got old"
    check_alone(audit(params), path, f"{path}: {reason}")


@pytest.mark.parametrize("path", [path for path, made in MADE.items() if made.others])
def test_a_result_tells_of_the_files_beside_it(params: Params, path: str) -> None:
    notes = notes_of(params, path)
    for name, file in zip(MADE[path].others, files_of(path)[1:], strict=True):
        content = file.read_bytes()
        file.write_bytes(b"another")
        changed = notes_of(params, path)["files"][name]
        (reason,) = told(audit(params)).values()
        assert reason == (
            f"{file}: expected a file of SHA-256 {notes['files'][name]}, as {Path(path).name} says, got {changed}: "
            f"damaged, or made at another time; {REMEDY}"
        )
        file.unlink()
        check_alone(audit(params), path, f"{file}: expected a file of the pipeline: No such file or directory")
        file.write_bytes(content)
    write_notes(path, notes | {"files": dict(reversed(notes["files"].items()))})
    assert told(audit(params)) == {}


def test_a_result_must_have_the_digests_of_the_files_beside_it(params: Params) -> None:
    path = "results/plots/report.json"
    notes = notes_of(params, path)
    digests = dict([*notes["files"].items()][:2])
    write_notes(path, notes | {"files": digests})
    expected = f"{path}: expected the digests of {', '.join(MADE[path].others)}, got those of "
    check_alone(audit(params), path, f"{expected}../metrics.json, bits_per_dim.csv; {REMEDY}")
    write_notes(path, {"recipe": notes["recipe"]})
    check_alone(audit(params), path, f"{expected}no file; {REMEDY}")


def test_other_images_make_stale_what_reads_them(params: Params) -> None:
    for path in (WHOLE, SPLIT):
        write_notes(path, notes_of(params, path) | {"digest": "3" * 64})
    found = audit(params)
    reason = f"data_digest: expected {'3' * 64}, got {'2' * 64}"
    assert told(found) == {
        f"results/stages/{stage}/checkpoint.safetensors": f"results/stages/{stage}/checkpoint.safetensors: made from "
        f"another recipe than params.yaml asks for: {reason}"
        for stage in ("raster", "high", "low")
    }
    assert {*map(str, found.sound)} == {WHOLE, SPLIT}


def test_other_images_under_another_scale_factor_are_told(params: Params) -> None:
    write_notes(SPLIT, notes_of(params, SPLIT) | {"digest": "3" * 64})
    found = audit(params)
    assert told(found) == {
        path: f"{path}: expected the same images in {WHOLE}, {SPLIT}, got others" for path in (WHOLE, SPLIT)
    }
    assert found.sound == {}


def test_slices_of_another_source_are_told(params: Params) -> None:
    Path("sources/made/val.npy").write_bytes(b"more")
    found = audit(params)
    assert told(found) == {path: f"{path}: the source made has changed since it was made" for path in (WHOLE, SPLIT)}
    assert found.sound == {}
    Path("sources/made/val.npy").unlink()
    assert told(audit(params)) == {}
    shutil.move("sources", "elsewhere")
    assert told(audit(params, Path("elsewhere"))) == {}


def test_slices_whose_source_is_gone_stand_by_themselves(params: Params) -> None:
    shutil.rmtree("sources")
    found = audit(params)
    assert told(found) == {}
    assert [*map(str, found.unread)] == [WHOLE, SPLIT]
    for path in (WHOLE, SPLIT):  # such as those of a source that is bundled
        write_notes(path, notes_of(params, path) | {"source_state": None})
    found = audit(params)
    assert told(found) == {}
    assert found.unread == []


def test_slices_must_be_of_the_source_whose_digest_is_stated(params: Params) -> None:
    stated = load_params(write_params(Path(), made_params(source_digest=SOURCE_DIGEST)))
    assert told(audit(stated)) == {}
    other = load_params(write_params(Path(), made_params(source_digest="6" * 64)))
    assert told(audit(other)) == {
        path: f"{path}: expected slices of a source of SHA-256 {'6' * 64}, as data.source_digest says, "
        f"got {SOURCE_DIGEST}"
        for path in (WHOLE, SPLIT)
    }


def test_what_is_wrong_with_a_recipe_is_told_by_its_first_key() -> None:
    path = Path("made.json")
    expected: dict[str, Any] = {"a": 1, "b": {"c": 2, "d": 3}, "e": None}

    def refused(actual: dict[str, Any] | None) -> str:
        with pytest.raises(InputError) as error:
            check_recipe(path, expected, actual)
        return str(error.value)

    other = "made.json: made from another recipe than params.yaml asks for:"
    check_recipe(path, expected, json.loads(json.dumps(expected)))
    assert refused(None) == f"made.json: expected a recipe inside, found none; {REMEDY}"
    assert refused(expected | {"a": 2}) == f"{other} a: expected 1, got 2"
    assert refused(expected | {"b": {"c": 2, "d": 4}}) == f"{other} b.d: expected 3, got 4"
    assert refused(expected | {"b": {"c": 5, "d": 4}}) == f"{other} b.c: expected 2, got 5 (and 1 more)"
    assert refused({"f": 9}) == f"{other} a: expected 1, got None (and 3 more)"
    assert refused(expected | {"f": 9}) == f"{other} f: expected None, got 9"
    assert refused(expected | {"b": 2}) == f"{other} b: expected {{'c': 2, 'd': 3}}, got 2"


def test_records_are_compared_with_the_store_that_is_there(params: Params) -> None:
    assert recorded_in() == HANDLE
    Path("mlflow.db").unlink()
    assert recorded_in() is None
    assert told(audit(params)).keys() == RECORDS
    server = {"uri": "http://127.0.0.1:5000", "id": "1"}
    write_json(Path("mlflow/experiment.json"), server)
    assert recorded_in() == server
    assert told(audit(params)).keys() == RECORDS
    Path("mlflow/experiment.json").unlink()
    assert recorded_in() is None


def cloned() -> None:
    """Leave what `dvc pull` brings: all but what tells of a run."""
    shutil.rmtree("mlflow")
    Path("mlflow.db").unlink()


def test_in_a_clone_no_record_is_asked_for(params: Params) -> None:
    cloned()
    found = audit(params)
    assert told(found).keys() == RECORDS
    assert is_clone(found)
    assert [str(result.path) for result in asked_results(params, found)] == [
        path for path in MADE if path not in RECORDS
    ]


@pytest.mark.parametrize("trace", ["runs", "mlflow.db", "mlflow/chains"])
def test_where_something_ran_every_record_is_asked_for(params: Params, trace: str) -> None:
    cloned()
    Path(trace).mkdir(parents=True)
    found = audit(params)
    assert told(found).keys() == RECORDS
    assert not is_clone(found)
    assert [str(result.path) for result in asked_results(params, found)] == [*MADE]


def test_where_more_than_records_is_missing_everything_is_asked_for(params: Params) -> None:
    cloned()
    Path("results/stages/low/metrics.json").unlink()
    found = audit(params)
    assert not is_clone(found)
    assert [str(result.path) for result in asked_results(params, found)] == [*MADE]
