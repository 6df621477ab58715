"""The tables and figures of the whole experiment."""

from pathlib import Path

from spn.config import InputError, Params
from spn.data.hdf5 import SliceFile
from spn.files import write_json
from spn.image import join_slices
from spn.notes import FILES, RECIPE, TRAINED, file_digests
from spn.paths import RESULTS, plots_folder, report_files, report_path
from spn.pipeline.place import choose_device
from spn.pipeline.reading import (
    check_samples,
    check_weights,
    data_digest,
    metrics_of_chains,
    notes_of_training,
    read_completion,
    read_rate,
    read_reconstruction,
)
from spn.pipeline.shown import show
from spn.provenance import load_verb, report_recipe
from spn.report.pictures import evenly_spaced
from spn.report.summary import write_report
from spn.report.tables import Pictured


def report(params: Params, data: Path, results: Path = RESULTS, *, device: str = "auto", threads: int = 1) -> Path:
    """Write the tables and figures of the whole experiment; return their folder.

    `data` is a file of slices, under any scale factor, for real images beside the samples. Some samples of each chain
    are scored on `device`, and compared with all training images.
    """
    load_verb("report")
    place = choose_device(device, threads)
    slices = SliceFile(data)
    stages = tuple(params.stage_plans)
    digest = data_digest(params, stages, results)
    if slices.digest != digest:
        raise InputError(f"{data}: expected the images that the stages were evaluated on, got others")
    for chain in params.chains:
        check_samples(params, chain, digest, results)
    completions = {chain: read_completion(params, chain, digest, results) for chain in params.chains}
    rates = {chain: read_rate(params, chain, digest, results) for chain in params.chains}
    pictured = Pictured(
        {name: read_reconstruction(params, name, digest, results) for name in params.first_stage_plans},
        {chain: found["given"] for chain, found in completions.items() if found},
        {chain: found for chain, found in rates.items() if found},
    )
    chosen = evenly_spaced(params.sampling.num_images, slices.num_images("test"))
    real = join_slices(slices.slices("test", chosen))
    metrics = metrics_of_chains(params, results)
    histories = {stage: notes_of_training(params, stage, digest, results)["history"] for stage in stages}
    weights = check_weights(params, params.chains, results)
    gallery = show(params, slices, results, place)
    write_report(params, metrics, histories, real, gallery, results, pictured)
    files = file_digests(plots_folder(results), report_files(stages))
    write_json(report_path(results), {RECIPE: report_recipe(params, digest), TRAINED: weights, FILES: files})
    return plots_folder(results)
