"""Chains: sampled stage after stage, and their bits/dim as the sum of their stages'."""


rule sample:
    input:
        data=lambda wildcards: layout(wildcards.stage),
        checkpoint="results/stages/{stage}/checkpoint.safetensors",
        given=given_samples,
    output:
        samples="results/chains/{chain}/{stage}/samples.h5",
        grid=report(
            "results/chains/{chain}/{stage}/samples.png",
            caption="../captions/samples.rst",
            category="Samples",
            labels={"chain": "{chain}", "after stage": "{stage}"},
        ),
        timing="results/chains/{chain}/{stage}/timing.json",
    log:
        "logs/sample/{chain}/{stage}.log",
    conda:
        "../envs/spn.yaml"
    threads: 1
    resources:
        gpu=0,
    params:
        sampling=parameters.sampling.model_dump(mode="json"),
        temperature=lambda wildcards: parameters.chains[
            wildcards.chain
        ].temperature.get(wildcards.stage, 1.0),
        # An image of a chain has a class from its first stage on, where any stage is told of classes.
        num_classes=lambda wildcards: max(
            plan.num_classes for plan in parameters.plans[wildcards.chain]
        ),
        code=code_digest("generation/sample.py"),
        folder=subpath(output.samples, parent=True),
    shell:
        "spn sample {wildcards.chain} {wildcards.stage} --data {input.data} --checkpoint {input.checkpoint}"
        " --given {input.given} --output {params.folder} --threads {threads}"
        " --gpus {resources.gpu} > {log} 2>&1"


rule summarise:
    input:
        lambda wildcards: expand(
            "results/stages/{stage}/{file}",
            stage=stages_of(wildcards),
            file=["metrics.json", "nats.npy", "checkpoint.safetensors"],
        ),
    output:
        "results/chains/{chain}/metrics.json",
    log:
        "logs/summarise/{chain}.log",
    conda:
        "../envs/spn.yaml"
    params:
        stages=lambda wildcards: stages_of(wildcards),
        code=code_digest("evaluation/evaluate.py", "evaluation/speed.py"),
    shell:
        "spn summarise {wildcards.chain} --output {output} > {log} 2>&1"


rule record:
    input:
        metrics="results/chains/{chain}/metrics.json",
        samples=lambda wildcards: expand(
            "results/chains/{{chain}}/{stage}/{file}",
            stage=stages_of(wildcards),
            file=["samples.png", "timing.json"],
        ),
    output:
        "mlflow/chains/{chain}.json",
    log:
        "logs/record/{chain}.log",
    conda:
        "../envs/spn.yaml"
    shell:
        "spn record {wildcards.chain} --output {output} > {log} 2>&1"
