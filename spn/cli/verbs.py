"""The verbs: each loads what its paths name, calls one public function, and saves what it gives.

Imports are inside the verbs, because torch and mlflow take seconds and some verbs need neither.
"""

import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spn.cli.classes import check_sampled_labels, choose_labels
from spn.cli.observing import observing, tell
from spn.cli.options import check_stage_name, choose_device, load_for_stage, stages_of
from spn.cli.results import metrics_of_chain, metrics_of_chains
from spn.config import InputError, layout_name, load_params, params_schema
from spn.files import read_json, write_json

if TYPE_CHECKING:
    from spn.tracking import Experiment


def preprocess(params: Path, layout: str, sources: Path, output: Path) -> None:
    """Turn a data source into bit-depth-split HDF5 slice tensors."""
    from spn.data.preprocess import preprocess as run

    loaded = load_params(params)
    plans = {layout_name(plan.scale_factor, plan.cuts): plan for plan in loaded.stage_plans.values()}
    if layout not in plans:
        raise InputError(f"--layout: expected a layout that a stage uses ({', '.join(plans)}), got {layout}")
    run(loaded.data, plans[layout].scale_factor, plans[layout].cuts, sources, output)


def create_experiment(params: Path, uri: str | None, output: Path) -> None:
    """Create the MLflow store and the experiment, once, before anything is logged."""
    from spn import tracking

    tracking.create_experiment(uri or tracking.default_uri(), load_params(params).data.name, output)


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
    from spn.provenance import stage_recipe
    from spn.training import TerminatedError, claimed
    from spn.training import train as run

    loaded, place = load_for_stage(params, stage), choose_device(device, threads)
    slices = SliceFile(data)
    recipe = stage_recipe(loaded, stage, slices.digest)
    try:
        with (
            joined(),
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
    """Give a stage's nats over the whole test split: exact, or the bound that its law gives."""
    from spn.data.hdf5 import SliceFile
    from spn.distributed import is_first, joined
    from spn.evaluation.evaluate import conditioning, estimate, save_nats, stage_nats, summarise
    from spn.generation import load_trained
    from spn.machine import fast_products
    from spn.provenance import recipe_digest, stage_recipe

    loaded, place = load_for_stage(params, stage), choose_device(device, threads)
    slices = SliceFile(data)
    trained, model = load_trained(loaded, stage, slices.digest, checkpoint, place)
    with joined(), fast_products(place) as products:
        tell(stage, place, products)
        nats = stage_nats(trained, model, slices, "test", place)
        if not is_first():
            return
    nats_sha256 = save_nats(output / "nats.npy", nats)
    metrics = {
        "stage": stage,
        "recipe_digest": recipe_digest(stage_recipe(loaded, stage, slices.digest)),
        "split": "test",
        "estimate": estimate([loaded.stages[stage].model.is_bound]),
        "conditioning": conditioning([loaded.stages[stage].class_conditional]),
        **summarise(nats, trained.image_dims),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "nats_sha256": nats_sha256,
    }
    write_json(output / "metrics.json", metrics)


def sample(
    params: Path,
    chain: str,
    stage: str,
    data: Path,
    checkpoint: Path,
    given: list[Path],
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
    from spn.generation import SAMPLERS, load_trained, sample_chain_stage
    from spn.generation.sample import BATCH_SIZE
    from spn.provenance import recipe_digest, stage_recipe
    from spn.report.pictures import class_columns, save_grid

    loaded, place = load_for_stage(params, stage, chain), choose_device(device, threads)
    if sampler not in SAMPLERS:
        raise InputError(f"--sampler: expected one of {', '.join(SAMPLERS)}, got {sampler}")
    labels = choose_labels(loaded, chain, only)
    for path in given:
        check_sampled_labels(path, labels)
    digest = SliceFile(data).digest
    trained, model = load_trained(loaded, stage, digest, checkpoint, place)
    before, notes = read_images(given[0]) if given else (None, {"recipes": "{}"})
    with joined():
        started = time.monotonic()
        images = sample_chain_stage(
            trained,
            model.double() if exact else model,
            before,
            num_images=loaded.sampling.num_images,
            seed=loaded.sampling.seed,
            temperature=loaded.chains[chain].temperature.get(stage, 1.0),
            batch_size=BATCH_SIZE if batch_size is None else batch_size,
            sampler=sampler,
            labels=labels,
        )
        seconds = time.monotonic() - started
        if not is_first():
            return
    recipes = json.loads(str(notes["recipes"])) | {stage: recipe_digest(stage_recipe(loaded, stage, digest))}
    write_images(
        output / "samples.h5",
        images,
        {"chain": chain, "seed": loaded.sampling.seed, "exact": int(exact), "recipes": json.dumps(recipes)},
        labels,
    )
    save_grid(images, loaded.data.white_level, output / "samples.png", class_columns(labels))
    write_json(output / "timing.json", {"images": len(images), "seconds": seconds, "device": str(place)})


def summarise(params: Path, chain: str, stages: Path, output: Path) -> None:
    """Add the nats and the training times of a chain's stages."""
    from spn.checkpoint import load_notes
    from spn.evaluation.evaluate import chain_metrics, load_nats
    from spn.evaluation.speed import training_speed

    loaded, parts, trained = load_params(params), {}, []
    for name in stages_of(loaded, chain):
        metrics = read_json(stages / name / "metrics.json")
        parts[name] = metrics, load_nats(stages / name / "nats.npy", metrics.get("nats_sha256"))
        history = load_notes(stages / name / "checkpoint.safetensors")["history"]
        trained.append((history, loaded.stages[name].training.batch_size))
    write_json(output, chain_metrics(chain, parts) | training_speed(trained))


def record(params: Path, chain: str, experiment: Path, results: Path, output: Path) -> None:
    """Record a chain as an MLflow run, linked to the runs of its stages."""
    from spn import tracking

    loaded, store = load_params(params), tracking.load_experiment(experiment)
    names, folder = stages_of(loaded, chain), results / "chains" / chain
    for name in names:
        metrics = read_json(results / "stages" / name / "metrics.json")
        if not tracking.has_finished_run(store, metrics["recipe_digest"]):
            _record_training(store, results / "stages" / name / "checkpoint.safetensors", metrics)
        tracking.record_evaluation(store, metrics)
    samples = {f"{place}_{name}.png": folder / name / "samples.png" for place, name in enumerate(names, start=1)}
    run_id = tracking.record_chain(store, chain, metrics_of_chain(loaded, chain, results), samples)
    write_json(output, {"chain": chain, "run_id": run_id})


def _record_training(store: "Experiment", checkpoint: Path, metrics: dict[str, Any]) -> None:
    """Record a training of which this store knows nothing: its results came by `dvc pull`."""
    from spn import tracking
    from spn.checkpoint import load_notes

    notes = load_notes(checkpoint)
    with tracking.StageRun(
        store, metrics["stage"], notes["recipe"], num_parameters=metrics["num_parameters"], checkpoint=checkpoint
    ) as run:
        for row in notes["history"]:
            run.measured(row)


def report(params: Path, data: Path, results: Path) -> None:
    """Write the tables and figures of the whole experiment."""
    import torch

    from spn.checkpoint import load_notes
    from spn.data.hdf5 import SliceFile
    from spn.image import join_slices
    from spn.report import report as run

    loaded, slices = load_params(params), SliceFile(data)
    count = min(loaded.sampling.num_images, slices.num_images("test"))
    real = join_slices(slices.slices("test", torch.arange(count)))
    checkpoints = {name: results / "stages" / name / "checkpoint.safetensors" for name in loaded.stage_plans}
    histories = {name: load_notes(path)["history"] for name, path in checkpoints.items()}
    run(loaded, metrics_of_chains(loaded, results), histories, real, results)


def verify(params: Path, data: list[Path], results: Path) -> None:
    """Compare every result's recipe with params.yaml, and print the table that compares the chains."""
    from spn.cli.verification import verify_results
    from spn.report import text_table

    loaded = load_params(params)
    verify_results(loaded, data, results)
    print(text_table(loaded, metrics_of_chains(loaded, results)))


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


def plan(params: Path, data: Path, recompute: bool, device: str, threads: int) -> None:
    """Forecast parameters, FLOPs, memory, sampling steps and times of every stage, before anything runs."""
    from spn import planning
    from spn.planning.images import count_images

    loaded, place = load_params(params), choose_device(device, threads)
    images, memory = count_images(loaded, data), planning.memory_of(place)
    speeds = planning.measure_speeds(place, {loaded.stages[name].training.precision for name in loaded.stage_plans})
    stages = planning.forecast(loaded, speeds, images, memory, recompute)
    print(planning.plan_table(loaded, stages, images, place))
    for line in planning.warnings(loaded, stages, memory):
        print(line)


def schema() -> None:
    """Print the JSON schema of params.yaml."""
    print(json.dumps(params_schema(), indent=2))
