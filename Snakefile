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
    create_experiment,
    summarise,
    record,


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/stages.smk"
include: "workflow/rules/chains.smk"
include: "workflow/rules/results.smk"


# Without outputs, so it runs whenever it is asked for: Snakemake's records and DVC's can both be made to look away.
rule reproduce:
    default_target: True
    input:
        rules.report.output,
        data=LAYOUTS,
        # Missing after a training that failed, see rule train; nothing else that is asked for here would tell.
        histories=expand(
            "results/stages/{stage}/history.csv", stage=parameters.stage_plans
        ),
        metrics=expand(
            "results/stages/{stage}/metrics.json", stage=parameters.stage_plans
        ),
        samples=[
            f"results/chains/{name}/{stage}/samples.png"
            for name, chain in parameters.chains.items()
            for stage in chain.stages
        ],
        runs=expand("mlflow/chains/{chain}.json", chain=parameters.chains),
    log:
        "logs/reproduce.log",
    conda:
        "workflow/envs/spn.yaml"
    shell:
        "spn verify --data {input.data} | tee {log}"
