"""Presets that are run beside params.yaml, each in a workspace of its own: `snakemake --cores all compare`.

The whole workflow runs there, with the sources of this workspace.
"""


# Without outputs, so it runs whenever it is asked for; what runs inside is decided by the Snakemake that runs there.
rule ablations:
    input:
        "presets/ablations.yaml",
    log:
        "logs/ablations.log",
    conda:
        "../envs/spn.yaml"
    threads: lambda wildcards: workflow.cores
    resources:
        # Where the jobs of the Snakemake inside run; a cluster's profile says otherwise.
        options=lambda wildcards, threads: f"--cores {threads}",
    params:
        workspace="experiments/ablations",
    shell:
        "mkdir -p {params.workspace} && ln -sfn ../../sources {params.workspace}/sources"
        " && (cmp -s {input} {params.workspace}/params.yaml || cp {input} {params.workspace}/params.yaml)"
        " && snakemake --snakefile Snakefile --directory {params.workspace} --rerun-incomplete"
        " {resources.options} --quiet rules progress host -- reproduce 2>&1 | tee {log}"


use rule ablations as compare with:
    input:
        "presets/compare.yaml",
    log:
        "logs/compare.log",
    params:
        workspace="experiments/compare",
