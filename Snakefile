"""Trains, samples and evaluates every chain of params.yaml: `snakemake --cores all reproduce`."""

import sys
from pathlib import Path
from shlex import quote

from snakemake.utils import min_version

# This folder; the Snakefile of an experiment may include this one. Jobs and this file run the code that lies here, even if
# another checkout is installed: in a git worktree, or in a temporary workspace of DVC.
REPOSITORY = str(workflow.current_basedir)
if REPOSITORY not in sys.path:
    sys.path.insert(0, REPOSITORY)

from spn.config import InputError, load_params
from spn.console import follow
from spn.files import WriteError
from spn.provenance import Audit, ask, asked_results, audit

min_version("9.20")

shell.prefix(
    f"export PYTHONPATH={quote(REPOSITORY)}"
    + '"${{PYTHONPATH:+:$PYTHONPATH}}"; '  # braces doubled, because Snakemake formats it
)


# Not called `params`, which is a directive of Snakemake. A mistake in params.yaml stops everything here, before any
# job. The notes in results decide what is made again, not Snakemake's records. Only the main process audits them, not
# the jobs on a cluster, which read the Snakefile again.
found = Audit()
try:
    parameters = load_params(Path("params.yaml"))
    if workflow.is_main_process:
        found = audit(parameters)
        ask(parameters, found)
except (InputError, WriteError) as error:
    # SystemExit, because Snakemake would print more lines after an exception.
    raise SystemExit(f"spn: error: {error}") from None
for problem in found.problems:
    if not problem.is_missing:
        print(f"to be made again: {problem.reason}", file=sys.stderr)


# Shows progress on the terminal, and finally the reasons of failures.
follow(workflow)


report: "workflow/captions/workflow.rst"


wildcard_constraints:
    dataset=parameters.data.name,
    stage="|".join(parameters.stage_plans),
    first_stage="|".join(parameters.first_stage_plans) or "no first stage",
    chain="|".join(parameters.chains),
    scale_factor=r"\d+",


localrules:
    reproduce,
    ablations,
    compare,
    orders,
    summarise,
    record,


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/stages.smk"
include: "workflow/rules/chains.smk"
include: "workflow/rules/results.smk"
include: "workflow/rules/experiments.smk"


# It has no outputs, so it runs whenever requested. Its inputs are all files of all results, so that a deleted file is
# made again.
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
