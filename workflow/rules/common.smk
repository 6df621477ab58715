"""What params.yaml says of files: which results there are, which layout a stage reads, which stages a chain has."""


def layout(stage: str) -> str:
    """Name the HDF5 file that a stage reads."""
    return f"data/{parameters.data.name}/{layout_of(parameters, stage)}.h5"


LAYOUTS = sorted({layout(stage) for stage in parameters.stage_plans})


def request(path: str) -> str:
    """Name the request of the job that makes `path`: newer than what is to be made again; see spn/provenance."""
    return str(request_path(Path(path)))


def source_files(wildcards) -> list[str]:
    """List the source's files that are there; `spn preprocess` says what is missing, and how to get it."""
    places = [Path("sources", place) for place in parameters.data.places]
    return [str(place) for place in places if place.exists()]


def stages_of(wildcards) -> tuple[str, ...]:
    """Name the stages of a chain, in order."""
    return parameters.chains[wildcards.chain].stages


def given_samples(wildcards) -> list[str]:
    """Name the samples of the stage before; none for the first stage of a chain."""
    stages = stages_of(wildcards)
    before = stages[: stages.index(wildcards.stage)][-1:]
    return [f"results/chains/{wildcards.chain}/{stage}/samples.h5" for stage in before]
