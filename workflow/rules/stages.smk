"""One rule per stage: training and evaluation. Stages train on true contexts, so they run in parallel."""


rule train:
    input:
        data=lambda wildcards: slices(wildcards.stage),
        request=request(CHECKPOINT),
    output:
        # Kept while the rule runs, because training returns at once where the checkpoint has the recipe asked for.
        checkpoint=update(CHECKPOINT),
        # Not kept: after a failure Snakemake takes a checkpoint that was kept for the new one, but this one is missing.
        history=STAGE / "history.csv",
    log:
        "logs/train/{stage}.log",
    conda:
        "../envs/spn.yaml"
    threads: 1
    resources:
        # Of the machine, not of the science: for example --set-resources train:options=--recompute, or in a profile.
        options="",
        # More than one: a process for each.
        gpu=0,
    params:
        folder=subpath(output.checkpoint, parent=True),
    shell:
        # In place of the shell, so that SIGTERM reaches it and Snakemake waits until it has saved.
        "exec spn train {wildcards.stage} --data {input.data} --output {params.folder}"
        " --threads {threads} --gpus {resources.gpu} {resources.options} > {log} 2>&1"


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
