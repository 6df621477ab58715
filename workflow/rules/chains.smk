"""Chains: sampled stage after stage, and their bits/dim as the sum of their stages'."""


rule sample:
    input:
        data=lambda wildcards: layout(wildcards.stage),
        checkpoint="results/stages/{stage}/checkpoint.safetensors",
        given=given_samples,
        request=request("results/chains/{chain}/{stage}/samples.h5"),
    output:
        samples="results/chains/{chain}/{stage}/samples.h5",
        grid=report(
            "results/chains/{chain}/{stage}/samples.png",
            caption="../captions/samples.rst",
            category="Samples",
            # Their table is sorted by labels.
            labels=lambda wildcards: {
                "chain": wildcards.chain,
                "after stage": f"{stages_of(wildcards).index(wildcards.stage) + 1:02}. {wildcards.stage}",
            },
        ),
    log:
        "logs/sample/{chain}/{stage}.log",
    conda:
        "../envs/spn.yaml"
    threads: 1
    resources:
        gpu=0,
    params:
        given=lambda wildcards, input: f"--given {input.given}" if input.given else "",
        folder=subpath(output.samples, parent=True),
        # What the report's caption says of classes.
        num_classes=lambda wildcards: parameters.num_classes(wildcards.chain),
        only=lambda wildcards: parameters.sampling.class_,
    shell:
        "spn sample {wildcards.chain} {wildcards.stage} --data {input.data} --checkpoint {input.checkpoint}"
        " {params.given} --output {params.folder} --threads {threads}"
        " --gpus {resources.gpu} > {log} 2>&1"


rule summarise:
    input:
        figures=lambda wildcards: expand(
            "results/stages/{stage}/{file}",
            stage=stages_of(wildcards),
            file=["metrics.json", "nats.npy"],
        ),
        request=request("results/chains/{chain}/metrics.json"),
    output:
        "results/chains/{chain}/metrics.json",
    log:
        "logs/summarise/{chain}.log",
    conda:
        "../envs/spn.yaml"
    shell:
        "spn summarise {wildcards.chain} --output {output} > {log} 2>&1"


rule record:
    input:
        metrics="results/chains/{chain}/metrics.json",
        samples=lambda wildcards: expand(
            "results/chains/{{chain}}/{stage}/{file}",
            stage=stages_of(wildcards),
            file=["samples.h5", "samples.png"],
        ),
        request=request("mlflow/chains/{chain}.json"),
    output:
        "mlflow/chains/{chain}.json",
    log:
        "logs/record/{chain}.log",
    conda:
        "../envs/spn.yaml"
    shell:
        "spn record {wildcards.chain} --output {output} > {log} 2>&1"
