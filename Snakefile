"""Trains, samples and evaluates every chain of params.yaml: `snakemake --cores all reproduce`."""

from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from spn.config import InputError, load_params
from spn.provenance import code_digest, stage_recipe

min_version("9.20")


# `params` is a directive of Snakemake; a mistake in params.yaml stops everything here, before any job starts.
try:
    parameters = load_params(Path("params.yaml"))
except InputError as error:
    raise WorkflowError(str(error)) from None


container: None


report: "workflow/captions/workflow.rst"


wildcard_constraints:
    stage="|".join(parameters.stage_plans),
    chain="|".join(parameters.chains),
    layout=r"S\d+_[\d+]+",


localrules:
    reproduce,
    create_experiment,
    summarise,
    record,


include: "workflow/rules/data.smk"
include: "workflow/rules/stages.smk"
include: "workflow/rules/chains.smk"
include: "workflow/rules/results.smk"
