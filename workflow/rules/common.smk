"""What params.yaml says of files: which slices a stage reads, which stages a chain has."""

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
    """Name the HDF5 file that a stage reads."""
    plan = parameters.stage_plans[stage]
    return str(slices_path(parameters.data.name, plan.scale_factor))


# Of a stage, of a chain, and of a chain after a stage: with wildcards in the place of names.
STAGE, CHAIN, CHECKPOINT = (
    stage_folder("{stage}"),
    chain_folder("{chain}"),
    checkpoint_path("{stage}"),
)
SAMPLED = samples_path("{chain}", "{stage}")


def request(path: Path) -> str:
    """Name the request of the job that makes `path`: newer than what is to be made again; see spn/provenance."""
    return str(request_path(path))


def source_files(wildcards) -> list[str]:
    """List the source's files that are there; `spn preprocess` says what is missing, and how to get it."""
    places = [SOURCES / place for place in parameters.data.places]
    return [str(place) for place in places if place.exists()]


def stages_of(wildcards) -> tuple[str, ...]:
    """Name the stages of a chain, in order."""
    return parameters.chains[wildcards.chain].stages


def samples_of(chain: str) -> list[str]:
    """Name the samples of a chain after each of its stages, and their pictures."""
    paths = [samples_path(chain, stage) for stage in parameters.chains[chain].stages]
    return [str(file) for path in paths for file in (path, path.with_name(PICTURE))]


def given_samples(wildcards) -> list[str]:
    """Name the samples of the stage before; none for the first stage of a chain."""
    stages = stages_of(wildcards)
    before = stages[: stages.index(wildcards.stage)][-1:]
    return [str(samples_path(wildcards.chain, stage)) for stage in before]
