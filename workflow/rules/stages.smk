"""Training and evaluation of stages and first stages. Stages train on true contexts (teacher forcing), so they run in parallel."""


rule train:
    input:
        data=lambda wildcards: slices(wildcards.stage),
        request=request(CHECKPOINT),
    output:
        # Kept while the rule runs, because training returns at once if the checkpoint has the right recipe.
        checkpoint=update(CHECKPOINT),
        # Not kept: after a failure Snakemake would take the kept checkpoint for a new one, if this were not missing.
        history=STAGE / "history.csv",
    log:
        "logs/train/{stage}.log",
    wildcard_constraints:
        stage="|".join(parameters.trained_plans),
    conda:
        "../envs/spn.yaml"
    threads: 1
    resources:
        # Options of the machine, for example --set-resources train:options=--recompute, or in a profile.
        options="",
        # With several, a process for each. Of all nodes together, as for Slurm.
        gpu=0,
        nodes=1,
        # Where this is set, even to nothing, Snakemake starts the job without srun, which would keep it on one node.
        mpi="",
    params:
        folder=subpath(output.checkpoint, parent=True),
    shell:
        # `exec` replaces the shell, so that SIGTERM reaches spn and Snakemake waits until it has saved its state.
        "exec spn train {wildcards.stage} --data {input.data} --output {params.folder} --threads {threads}"
        " --gpus {resources.gpu} --nodes {resources.nodes} {resources.options} > {log} 2>&1"


rule evaluate:
    input:
        data=lambda wildcards: slices(wildcards.stage),
        checkpoint=CHECKPOINT,
        request=request(STAGE / METRICS),
    output:
        metrics=STAGE / METRICS,
        nats=STAGE / NATS,
    log:
        "logs/evaluate/{stage}.log",
    conda:
        "../envs/spn.yaml"
    threads: 1
    resources:
        gpu=0,
    params:
        folder=subpath(output.metrics, parent=True),
    shell:
        "spn evaluate {wildcards.stage} --data {input.data} --checkpoint {input.checkpoint}"
        " --output {params.folder} --threads {threads} --gpus {resources.gpu} > {log} 2>&1"


rule extract_codes:
    input:
        data=lambda wildcards: slices(wildcards.first_stage),
        checkpoint=checkpoint_path("{first_stage}"),
        request=request(codes_path("{first_stage}")),
    output:
        codes=codes_path("{first_stage}"),
        metrics=metrics_path("{first_stage}"),
        picture=report(
            stage_folder("{first_stage}") / RECONSTRUCTIONS,
            caption="../captions/reconstructions.rst",
            category="Samples",
            labels=lambda wildcards: {
                "chain": "(reconstructions)",
                "after stage": wildcards.first_stage,
            },
        ),
    log:
        "logs/extract_codes/{first_stage}.log",
    conda:
        "../envs/spn.yaml"
    threads: 1
    resources:
        gpu=0,
    params:
        folder=subpath(output.codes, parent=True),
    shell:
        "spn extract_codes {wildcards.first_stage} --data {input.data} --checkpoint {input.checkpoint}"
        " --output {params.folder} --threads {threads} --gpus {resources.gpu} > {log} 2>&1"
