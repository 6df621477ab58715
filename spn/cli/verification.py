"""What `verify` compares: every result under results/ with what params.yaml and the data ask for.

Snakemake and DVC decide by their own records what to run again, and both can be told to look away (`--touch`,
`dvc checkout`, `dvc commit`). A recipe inside a file cannot: this runs last, always, and before dvc.lock is written.
"""

import json
from pathlib import Path

from spn.checkpoint import check_recipe, load_tensors
from spn.cli.classes import check_sampled_labels, choose_labels
from spn.config import InputError, Params, layout_name
from spn.data.hdf5 import SliceFile, read_images
from spn.files import read_json
from spn.provenance import recipe_digest, stage_recipe


def verify_results(params: Params, data: list[Path], results: Path) -> None:
    """Raise InputError naming the first checkpoint, metrics file or sample that is not of its recipe."""
    layouts = {path.stem: _checked_digest(params, path) for path in data}
    digests = {}
    for name, plan in params.stage_plans.items():
        recipe = stage_recipe(params, name, layouts[layout_name(plan.scale_factor, plan.cuts)])
        digests[name] = recipe_digest(recipe)
        folder = results / "stages" / name
        path = folder / "checkpoint.safetensors"
        check_recipe(path, recipe, load_tensors(path)[1].get("recipe"))
        _same(folder / "metrics.json", digests[name], read_json(folder / "metrics.json").get("recipe_digest"))
    for chain, section in params.chains.items():
        _verify_chain(results / "chains" / chain, section.stages, digests)
        check_sampled_labels(
            results / "chains" / chain / section.stages[-1] / "samples.h5", choose_labels(params, chain)
        )


def _checked_digest(params: Params, path: Path) -> str:
    """Give the digest of a file of slices, which must be made from the source whose digest is stated, if any is."""
    slices = SliceFile(path)
    if params.data.source_digest not in (None, slices.source_digest):
        raise InputError(
            f"{path}: expected slices of a source of SHA-256 {params.data.source_digest}, as data.source_digest says, "
            f"got {slices.source_digest}; delete it and run the workflow again"
        )
    return slices.digest


def _verify_chain(folder: Path, stages: tuple[str, ...], digests: dict[str, str]) -> None:
    expected = {name: digests[name] for name in stages}
    metrics = read_json(folder / "metrics.json")
    _same(folder / "metrics.json", expected, {name: part["recipe_digest"] for name, part in metrics["stages"].items()})
    samples = folder / stages[-1] / "samples.h5"
    _same(samples, expected, json.loads(str(read_images(samples)[1]["recipes"])))


def _same(path: Path, expected: object, actual: object) -> None:
    if expected != actual:
        raise InputError(
            f"{path}: made from another recipe than params.yaml asks for: expected {expected}, got {actual}; "
            "delete it and run the workflow again"
        )
