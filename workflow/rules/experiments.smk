"""Presets that run beside params.yaml, each in a separate workspace: `snakemake --cores all compare`.

The whole workflow runs there, with the sources of this workspace.
"""


# It has no outputs, so it runs whenever requested; the inner Snakemake decides what to run.
rule ablations:
    input:
        f"{REPOSITORY}/presets/ablations.yaml",
    log:
        "logs/ablations.log",
    conda:
        "../envs/spn.yaml"
    threads: lambda wildcards: workflow.cores
    resources:
        # Options of the inner Snakemake; a cluster's profile sets others.
        options=lambda wildcards, threads: f"--cores {threads}",
    params:
        workspace="experiments/ablations",
        snakefile=f"{REPOSITORY}/Snakefile",
    shell:
        "mkdir -p {params.workspace} && ln -sfn ../../sources {params.workspace}/sources"
        " && (cmp -s {input:q} {params.workspace}/params.yaml || cp {input:q} {params.workspace}/params.yaml)"
        " && snakemake --snakefile {params.snakefile:q} --directory {params.workspace} --rerun-incomplete"
        " {resources.options} --quiet rules progress host -- reproduce 2>&1 | tee {log}"


use rule ablations as orders with:
    input:
        f"{REPOSITORY}/presets/orders.yaml",
    log:
        "logs/orders.log",
    params:
        workspace="experiments/orders",
        snakefile=f"{REPOSITORY}/Snakefile",


use rule ablations as compare with:
    input:
        f"{REPOSITORY}/presets/compare.yaml",
    log:
        "logs/compare.log",
    params:
        workspace="experiments/compare",
        snakefile=f"{REPOSITORY}/Snakefile",
