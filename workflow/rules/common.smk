"""Paths and lists from params.yaml: the slices that a stage reads, the stages of a chain."""

from spn.paths import (
    BARS,
    CODES,
    COMPLETED,
    CURVES,
    GALLERY,
    METRICS,
    NATS,
    PICTURE,
    REAL,
    RECONSTRUCTIONS,
    RESULTS,
    SOURCES,
    chain_folder,
    checkpoint_path,
    codes_path,
    completion_path,
    metrics_path,
    model_path,
    plots_folder,
    rate_path,
    record_path,
    report_path,
    request_path,
    samples_path,
    slices_path,
    stage_folder,
    summary_path,
)
from spn.provenance import read_path


def slices(name: str) -> str:
    """Return the path of the HDF5 file that a network reads: slices, or codes."""
    return str(read_path(parameters, name))


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


def chains_of(is_mixture: bool) -> str:
    """Match the chains that are mixtures of orders, or those that are not."""
    names = [
        name
        for name, chain in parameters.chains.items()
        if bool(chain.views) == is_mixture
    ]
    return "|".join(names) or "no such chain"


def samples_of(chain: str) -> list[str]:
    """List the samples of a chain after each stage, and their pictures."""
    paths = [samples_path(chain, stage) for stage in parameters.chains[chain].stages]
    return [str(file) for path in paths for file in (path, path.with_name(PICTURE))]


def tried(chain: str) -> list[str]:
    """List what is made with a chain's model file: completions and the size of coded images, if asked for."""
    return [
        *([str(completion_path(chain))] if parameters.is_completed(chain) else []),
        *([str(rate_path(chain))] if parameters.is_coded(chain) else []),
    ]


def label_text(chain: str) -> str:
    """Say of which class or caption the samples of a chain are; empty if no stage is conditioned on it."""
    count, sampling = parameters.num_classes(chain), parameters.sampling
    if not count:
        return ""
    if sampling.caption is not None:
        return f'All images have the caption "{sampling.caption}".'
    if sampling.class_ is not None:
        return f"All images are of class {sampling.class_}."
    return f"Image i, counted from 0, is of class i mod {count}."


def reconstruction_of(chain: str) -> list[str]:
    """List the codes, figures and picture of the first stage of a chain of codes; empty for a chain of pixels."""
    codes = parameters.codes(chain)
    if codes is None:
        return []
    return [
        str(path)
        for path in (
            codes_path(codes),
            metrics_path(codes),
            stage_folder(codes) / RECONSTRUCTIONS,
        )
    ]


def decoder(wildcards) -> list[str]:
    """List the checkpoint of the first stage whose codes a chain generates; empty for a chain of pixels."""
    codes = parameters.codes(wildcards.chain)
    return [] if codes is None else [str(checkpoint_path(codes))]


def given_samples(wildcards) -> list[str]:
    """List the samples of the stage before; empty for the first stage of a chain."""
    stages = stages_of(wildcards)
    before = stages[: stages.index(wildcards.stage)][-1:]
    return [str(samples_path(wildcards.chain, stage)) for stage in before]
