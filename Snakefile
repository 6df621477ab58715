"""Trains, samples and evaluates every chain of params.yaml: `snakemake --cores all reproduce`."""

from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from spn.config import InputError, layout_name, load_params
from spn.provenance import code_digest, stage_recipe

min_version("9.20")


# `params` is a directive of Snakemake; a mistake in params.yaml stops everything here, before any job starts.
try:
    parameters = load_params(Path("params.yaml"))
except InputError as error:
    raise WorkflowError(str(error)) from None


report: "workflow/captions/workflow.rst"


wildcard_constraints:
    dataset=parameters.data.name,
    stage="|".join(parameters.stage_plans),
    chain="|".join(parameters.chains),
    layout=r"S\d+_[\d+]+",


localrules:
    reproduce,
    ablations,
    compare,
    summarise,
    record,


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/stages.smk"
include: "workflow/rules/chains.smk"
include: "workflow/rules/results.smk"
include: "workflow/rules/experiments.smk"


# Without outputs, so it runs whenever it is asked for: Snakemake's records and DVC's can both be made to look away.
# Every file is asked for, so that one which is deleted, by a user or after a failure, is made again.
rule reproduce:
    default_target: True
    input:
        rules.report.output,
        data=LAYOUTS,
        stages=expand(
            "results/stages/{stage}/{file}",
            stage=parameters.stage_plans,
            file=["checkpoint.safetensors", "history.csv", "metrics.json", "nats.npy"],
        ),
        chains=expand("results/chains/{chain}/metrics.json", chain=parameters.chains),
        samples=sampled("samples.h5", "samples.png", "timing.json"),
        runs=expand("mlflow/chains/{chain}.json", chain=parameters.chains),
    log:
        "logs/reproduce.log",
    conda:
        "workflow/envs/spn.yaml"
    shell:
        "spn verify --data {input.data} | tee {log}"
