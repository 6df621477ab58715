"""From images to bit-depth-split HDF5 slice tensors."""

from spn.config import layout_name


def layout(stage: str) -> str:
    """Name the HDF5 file that a stage reads."""
    plan = parameters.stage_plans[stage]
    return f"data/{parameters.data.name}/{layout_name(plan.scale_factor, plan.cuts)}.h5"


LAYOUTS = sorted({layout(stage) for stage in parameters.stage_plans})


def source_files(wildcards) -> list[str]:
    """List the source's files that are there; `spn preprocess` says what is missing, and how to get it."""
    return [str(path) for path in (Path("sources") / place for place in getattr(parameters.data, "places", ())) if path.exists()]


rule preprocess:
    input:
        source_files,
    output:
        "data/{dataset}/{layout}.h5",
    log:
        "logs/preprocess/{dataset}/{layout}.log",
    params:
        data=parameters.data.model_dump(mode="json"),
        code=code_digest("data/preprocess.py"),
    shell:
        "spn preprocess --layout {wildcards.layout} --output {output} > {log} 2>&1"
