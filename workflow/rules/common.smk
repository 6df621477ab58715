"""Paths and lists from params.yaml: the slices that a stage reads, the stages of a chain."""

from spn.paths import (
    METRICS,
    NATS,
    PICTURE,
    RESULTS,
    SOURCES,
    chain_folder,
    checkpoint_path,
    plots_folder,
    record_path,
    report_path,
    request_path,
    samples_path,
    slices_path,
    stage_folder,
    summary_path,
)


def slices(stage: str) -> str:
    """Return the path of the HDF5 file that a stage reads."""
    plan = parameters.stage_plans[stage]
    return str(slices_path(parameters.data.name, plan.scale_factor))


# Paths with wildcards.
STAGE, CHAIN, CHECKPOINT = (
    stage_folder("{stage}"),
    chain_folder("{chain}"),
    checkpoint_path("{stage}"),
)
SAMPLED = samples_path("{chain}", "{stage}")


def request(path: Path) -> str:
    """Return the request of the job that makes `path`, which is newer if that is outdated; see spn/provenance."""
    return str(request_path(path))


def source_files(wildcards) -> list[str]:
    """List the source's files that exist; `spn preprocess` says which are missing, and how to get them."""
    places = [SOURCES / place for place in parameters.data.places]
    return [str(place) for place in places if place.exists()]


def stages_of(wildcards) -> tuple[str, ...]:
    """List the stages of a chain, in order."""
    return parameters.chains[wildcards.chain].stages


def samples_of(chain: str) -> list[str]:
    """List the samples of a chain after each stage, and their pictures."""
    paths = [samples_path(chain, stage) for stage in parameters.chains[chain].stages]
    return [str(file) for path in paths for file in (path, path.with_name(PICTURE))]


def given_samples(wildcards) -> list[str]:
    """List the samples of the stage before; empty for the first stage of a chain."""
    stages = stages_of(wildcards)
    before = stages[: stages.index(wildcards.stage)][-1:]
    return [str(samples_path(wildcards.chain, stage)) for stage in before]
