"""Trains, samples and evaluates every chain of params.yaml: `snakemake --cores all reproduce`."""

import sys
from pathlib import Path

from snakemake.utils import min_version

from spn.config import InputError, load_params
from spn.console import follow
from spn.files import WriteError
from spn.provenance import Audit, ask, asked_results, audit

min_version("9.20")


# `params` is a directive of Snakemake; a mistake in params.yaml stops everything here, before any job starts.
# What is made again is decided by what results say of themselves, whatever Snakemake remembers of them. The jobs, which
# read the Snakefile again on a cluster, need not know.
found = Audit()
try:
    parameters = load_params(Path("params.yaml"))
    if workflow.is_main_process:
        found = audit(parameters)
        ask(parameters, found)
except (InputError, WriteError) as error:
    # Snakemake would put lines of its own after the reason.
    raise SystemExit(f"spn: error: {error}") from None
for problem in found.problems:
    if not problem.is_missing:
        print(f"to be made again: {problem.reason}", file=sys.stderr)


# Progress on the terminal, and the reasons of failures last.
follow(workflow)


report: "workflow/captions/workflow.rst"


wildcard_constraints:
    dataset=parameters.data.name,
    stage="|".join(parameters.stage_plans),
    chain="|".join(parameters.chains),
    scale_factor=r"\d+",


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


# Without outputs, so it runs whenever it is asked for, and asks for every file, so that one which is deleted, by a user
# or after a failure, is made again.
rule reproduce:
    default_target: True
    input:
        [
            str(file)
            for result in asked_results(parameters, found)
            for file in result.files
        ],
    log:
        "logs/reproduce.log",
    conda:
        "workflow/envs/spn.yaml"
    shell:
        "spn verify 2>&1 | tee {log}"
