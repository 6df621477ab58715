"""The verbs: each loads what its paths name, calls one public function, and saves what it gives.

Imports are inside the verbs, because torch and mlflow take seconds and some verbs need neither.
"""

import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spn.cli.observing import observing, tell
from spn.cli.options import check_stage_name, choose_device, load_for_stage, stages_of
from spn.cli.results import data_digests, history_of, metrics_of_chain, metrics_of_chains, metrics_of_stage
from spn.cli.verification import given_digests
from spn.config import InputError, Params, load_params, params_schema
from spn.files import write_bytes, write_json
from spn.notes import FILES, RECIPE, check_files, content_digest, file_digests, read_notes
from spn.provenance import (
    SamplingOptions,
    check_recipe,
    evaluation_recipe,
    layout_of,
    load_verb,
    recipe_digest,
    record_recipe,
    report_recipe,
    sampled_class,
    sampling_recipe,
    slices_recipe,
    stage_recipe,
    summary_recipe,
)
from spn.provenance.results import report_files

if TYPE_CHECKING:
    from spn.tracking import Experiment


def preprocess(params: Path, layout: str, sources: Path, output: Path) -> None:
    """Turn a data source into bit-depth-split HDF5 slice tensors."""
    from spn.data.preprocess import preprocess as run

    loaded = load_params(params)
    load_verb("preprocess", loaded.data)
    plans = {layout_of(loaded, stage): plan for stage, plan in loaded.stage_plans.items()}
    if layout not in plans:
        raise InputError(f"--layout: expected a layout that a stage uses ({', '.join(plans)}), got {layout}")
    plan, recipe = plans[layout], slices_recipe(loaded, layout)
    run(loaded.data, plan.scale_factor, plan.cuts, sources, output, recipe=recipe)


def train(
    params: Path,
    stage: str,
    data: Path,
    experiment: Path,
    runs: Path,
    output: Path,
    compiled: bool,
    recompute: bool,
    device: str,
    threads: int,
) -> None:
    """Train one stage, or go on where a killed run stopped; return at once if it is trained."""
    from spn.data.hdf5 import SliceFile
    from spn.distributed import joined
    from spn.machine import fast_products
    from spn.training import TerminatedError, claimed
    from spn.training import train as run

    loaded, place = load_for_stage(params, stage), choose_device(device, threads)
    # All of it, and before the lock is waited for: what the recipe has the digest of is what will run.
    load_verb("train", loaded.stages[stage].model)
    slices = SliceFile(data)
    recipe = stage_recipe(loaded, stage, slices.digest)
    try:
        with (
            joined(recipe_digest(recipe)),
            claimed(runs, recipe),
            fast_products(place) as products,
            observing(loaded, recipe, experiment, output / "checkpoint.safetensors") as observe,
        ):
            tell(stage, place, products)
            run(loaded, stage, slices, output, runs, place, observe, compiled, recompute)
    except TerminatedError as stopped:
        print(f"spn: {stopped}; the same command goes on from there", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM) from None


def evaluate(params: Path, stage: str, data: Path, checkpoint: Path, output: Path, device: str, threads: int) -> None:
    """Compute a stage's nats over the whole test split: exact, or the bound that its law gives."""
    from spn.data.hdf5 import SliceFile
    from spn.distributed import is_first, joined
    from spn.evaluation.evaluate import conditioning, estimate, save_nats, stage_nats, summarise
    from spn.machine import fast_products
    from spn.report.tables import is_bound, total_text
    from spn.trained import load_trained

    loaded, place = load_for_stage(params, stage), choose_device(device, threads)
    load_verb("evaluate", loaded.stages[stage].model)
    slices = SliceFile(data)
    recipe = evaluation_recipe(loaded, stage, slices.digest)
    trained, model = load_trained(loaded, stage, slices.digest, checkpoint, place)
    with joined(recipe_digest(recipe)), fast_products(place) as products:
        tell(stage, place, products)
        nats = stage_nats(trained, model, slices, "test", place)
        if not is_first():
            return
    nats_sha256 = save_nats(output / "nats.npy", nats)
    metrics = {
        "stage": stage,
        "recipe_digest": recipe["training"],
        "split": recipe["split"],
        "estimate": estimate([loaded.stages[stage].model.is_bound]),
        "conditioning": conditioning([loaded.stages[stage].class_conditional]),
        **summarise(nats, trained.image_dims),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        RECIPE: recipe,
        FILES: {"nats.npy": nats_sha256},
    }
    write_json(output / "metrics.json", metrics)
    what = "an upper bound" if is_bound(metrics) else "exact"
    print(f"{stage}: {total_text(metrics)} bits/dim, {what}, over {metrics['num_images']:,} test images")


def sample(
    params: Path,
    chain: str,
    stage: str,
    data: Path,
    checkpoint: Path,
    given: Path | None,
    output: Path,
    only: int | None,
    exact: bool,
    sampler: str,
    batch_size: int | None,
    device: str,
    threads: int,
) -> None:
    """Sample one stage of a chain, given what the stages before it sampled, and tell how long drawing took."""
    from spn.data.hdf5 import SliceFile, read_images, write_images
    from spn.distributed import is_first, joined
    from spn.generation import SAMPLERS, sample_chain_stage
    from spn.generation.sample import BATCH_SIZE, sample_labels
    from spn.report.pictures import class_columns, draw_grid
    from spn.trained import load_trained

    loaded, place = load_for_stage(params, stage, chain), choose_device(device, threads)
    load_verb("sample", loaded.stages[stage].model)
    if sampler not in SAMPLERS:
        raise InputError(f"--sampler: expected one of {', '.join(SAMPLERS)}, got {sampler}")
    options = SamplingOptions(sampled_class(loaded, chain, only), exact)
    digest = SliceFile(data).digest
    digests = given_digests(loaded, chain, stage, digest, given, options)
    recipe = sampling_recipe(loaded, chain, stage, digests, options)
    before, notes = read_images(given) if given else (None, {})
    if notes and recipe_digest(notes[RECIPE]) != recipe["given"]:
        raise InputError(f"{given}: changed while it was read; run the same command again")
    trained, model = load_trained(loaded, stage, digest, checkpoint, place)
    num_images, num_classes = loaded.sampling.num_images, loaded.num_classes(chain)
    labels = sample_labels(num_images, num_classes, options.label) if num_classes else None
    with joined(recipe_digest(recipe)):
        started = time.monotonic()
        images = sample_chain_stage(
            trained,
            model.double() if exact else model,
            before,
            num_images=num_images,
            seed=loaded.sampling.seed,
            temperature=loaded.chains[chain].temperature_of(stage),
            batch_size=BATCH_SIZE if batch_size is None else batch_size,
            sampler=sampler,
            labels=labels,
        )
        seconds = time.monotonic() - started
        if not is_first():
            return
    picture = draw_grid(images, loaded.data.white_level, class_columns(labels))
    notes = {RECIPE: recipe, FILES: {"samples.png": content_digest(picture)}}
    write_images(output / "samples.h5", images, notes, labels)
    write_bytes(output / "samples.png", picture)
    write_json(output / "timing.json", {"images": len(images), "seconds": seconds, "device": str(place)})


def summarise(params: Path, chain: str, results: Path, output: Path) -> None:
    """Add the nats of a chain's stages."""
    from spn.evaluation.evaluate import chain_metrics, load_nats

    load_verb("summarise")
    loaded, parts = load_params(params), {}
    for name in stages_of(loaded, chain):
        metrics = metrics_of_stage(loaded, name, results)
        parts[name] = metrics, load_nats(results / "stages" / name / "nats.npy", metrics[FILES]["nats.npy"])
    digests = {name: metrics[RECIPE]["data_digest"] for name, (metrics, _) in parts.items()}
    write_json(output, chain_metrics(chain, parts) | {RECIPE: summary_recipe(loaded, chain, digests)})


def record(params: Path, chain: str, experiment: Path, results: Path, output: Path) -> None:
    """Record a chain as an MLflow run, linked to the runs of its stages."""
    from spn import tracking

    load_verb("record")
    loaded = load_params(params)
    names, folder = stages_of(loaded, chain), results / "chains" / chain
    store = tracking.open_experiment(experiment, loaded.data.name)
    for name in names:
        metrics = metrics_of_stage(loaded, name, results)
        if not tracking.has_finished_run(store, metrics["recipe_digest"]):
            _record_training(loaded, store, metrics, results)
        tracking.record_evaluation(store, metrics)
    digests = data_digests(loaded, names, results)
    _check_samples(loaded, chain, digests, results)
    samples = {f"{place}_{name}.png": folder / name / "samples.png" for place, name in enumerate(names, start=1)}
    run_id = tracking.record_chain(store, chain, metrics_of_chain(loaded, chain, results), samples)
    recipe = record_recipe(loaded, chain, digests, asdict(store))
    write_json(output, {"chain": chain, "run_id": run_id, RECIPE: recipe})


def _check_samples(params: Params, chain: str, digests: dict[str, str], results: Path) -> None:
    """Raise InputError unless the samples of a chain, and their pictures, are those that params.yaml asks for."""
    for name in params.chains[chain].stages:
        path = results / "chains" / chain / name / "samples.h5"
        notes = read_notes(path)
        check_recipe(path, sampling_recipe(params, chain, name, digests), notes.get(RECIPE))
        check_files(path, notes)


def _record_training(params: Params, store: "Experiment", metrics: dict[str, Any], results: Path) -> None:
    """Record a training of which this store knows nothing: its results came by `dvc pull`."""
    from spn import tracking

    stage, digest = metrics["stage"], metrics[RECIPE]["data_digest"]
    history, recipe = history_of(params, stage, digest, results), stage_recipe(params, stage, digest)
    checkpoint = results / "stages" / stage / "checkpoint.safetensors"
    count = metrics["num_parameters"]
    with tracking.StageRun(store, stage, recipe, num_parameters=count, checkpoint=checkpoint) as run:
        for row in history:
            run.measured(row)


def report(params: Path, data: Path, results: Path) -> None:
    """Write the tables and figures of the whole experiment."""
    import torch

    from spn.data.hdf5 import SliceFile
    from spn.image import join_slices
    from spn.report.summary import report as run

    load_verb("report")
    loaded, slices = load_params(params), SliceFile(data)
    digests = data_digests(loaded, tuple(loaded.stage_plans), results)
    if slices.digest not in digests.values():
        raise InputError(f"{data}: expected slices that a stage was evaluated on, got others")
    for chain in loaded.chains:
        _check_samples(loaded, chain, digests, results)
    count = min(loaded.sampling.num_images, slices.num_images("test"))
    real = join_slices(slices.slices("test", torch.arange(count)))
    histories = {name: history_of(loaded, name, digest, results) for name, digest in digests.items()}
    plots = run(loaded, metrics_of_chains(loaded, results), histories, real, results)
    names = report_files(loaded)
    write_json(plots / "report.json", {RECIPE: report_recipe(loaded, digests), FILES: file_digests(plots, names)})


def verify(params: Path, sources: Path) -> None:
    """Compare every result with params.yaml, the code and the sources, and print the table that compares the chains."""
    from spn.cli.verification import verify_results
    from spn.report.tables import text_table

    loaded = load_params(params)
    for line in verify_results(loaded, sources):
        print(line)
    print(text_table(loaded, metrics_of_chains(loaded, Path("results"))))


def check(params: Path, stage: list[str]) -> None:
    """Check stages for leaks (autograd), and stages and chains for probabilities that sum to one (tiny grids)."""
    from spn.evaluation.chain_check import check_chain
    from spn.evaluation.check import check_stage

    loaded = load_params(params)
    for name in stage or loaded.stage_plans:
        check_stage_name(loaded, name)
        print(check_stage(loaded.stage_plans[name], loaded.data.shape, loaded.stages[name].model, loaded.seed))
    models = {name: section.model for name, section in loaded.stages.items()}
    for chain, plans in {} if stage else loaded.plans.items():
        print(check_chain(chain, plans, loaded.data.shape[-1], models, loaded.seed))


def plan(params: Path, data: Path, recompute: bool, as_json: bool, device: str, threads: int) -> None:
    """Forecast parameters, FLOPs, memory, sampling steps and times of every stage, before anything runs."""
    from spn import planning
    from spn.planning.images import count_images

    loaded, place = load_params(params), choose_device(device, threads)
    images, memory = count_images(loaded, data), planning.memory_of(place)
    speeds = planning.measure_speeds(place, {loaded.stages[name].training.precision for name in loaded.stage_plans})
    stages = planning.forecast(loaded, speeds, images, memory, recompute)
    if as_json:
        print(planning.plan_json(stages))
        return
    print(planning.plan_table(loaded, stages, images, place))
    for line in planning.warnings(loaded, stages, memory):
        print(line)


def schema() -> None:
    """Print the JSON schema of params.yaml."""
    print(json.dumps(params_schema(), indent=2))
