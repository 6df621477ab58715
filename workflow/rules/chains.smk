"""Chains: samples, stage by stage, and bits/dim as the sum over stages."""


rule sample_stage:
    input:
        data=lambda wildcards: slices(wildcards.stage),
        checkpoint=CHECKPOINT,
        given=given_samples,
        decoder=decoder,
        request=request(SAMPLED),
    output:
        samples=SAMPLED,
        grid=report(
            SAMPLED.with_name(PICTURE),
            caption="../captions/samples.rst",
            category="Samples",
            # The report sorts by these labels.
            labels=lambda wildcards: {
                "chain": wildcards.chain,
                "after stage": f"{stages_of(wildcards).index(wildcards.stage) + 1:02}. {wildcards.stage}",
            },
        ),
    log:
        "logs/sample_stage/{chain}/{stage}.log",
    conda:
        "../envs/spn.yaml"
    threads: 1
    resources:
        gpu=0,
    params:
        given=lambda wildcards, input: f"--given {input.given}" if input.given else "",
        decoder=lambda wildcards, input: (
            f"--decoder {input.decoder}" if input.decoder else ""
        ),
        folder=subpath(output.samples, parent=True),
        # For the report's caption.
        label=lambda wildcards: label_text(wildcards.chain),
    shell:
        "spn sample_stage {wildcards.chain} {wildcards.stage} --data {input.data} --checkpoint {input.checkpoint}"
        " {params.given} {params.decoder} --output {params.folder} --threads {threads}"
        " --gpus {resources.gpu} > {log} 2>&1"


rule summarise:
    input:
        figures=lambda wildcards: [
            str(stage_folder(stage) / file)
            for stage in stages_of(wildcards)
            for file in (METRICS, NATS)
        ],
        request=request(CHAIN / METRICS),
    output:
        CHAIN / METRICS,
    log:
        "logs/summarise/{chain}.log",
    wildcard_constraints:
        chain=chains_of(is_mixture=False),
    conda:
        "../envs/spn.yaml"
    shell:
        "spn summarise {wildcards.chain} --output {output} > {log} 2>&1"


rule mix_orders:
    input:
        read=lambda wildcards: [slices(stage) for stage in stages_of(wildcards)],
        checkpoints=lambda wildcards: [
            str(checkpoint_path(stage)) for stage in stages_of(wildcards)
        ],
        figures=lambda wildcards: [
            str(stage_folder(stage) / file)
            for stage in stages_of(wildcards)
            for file in (METRICS, NATS)
        ],
        request=request(CHAIN / METRICS),
    output:
        metrics=CHAIN / METRICS,
        nats=CHAIN / NATS,
    log:
        "logs/mix_orders/{chain}.log",
    wildcard_constraints:
        chain=chains_of(is_mixture=True),
    conda:
        "../envs/spn.yaml"
    threads: 1
    resources:
        # One at most: all of it is done by one process.
        gpu=0,
    params:
        folder=subpath(output.metrics, parent=True),
    shell:
        "spn mix_orders {wildcards.chain} --output {params.folder} --threads {threads} > {log} 2>&1"


rule export:
    input:
        data=slices_path(parameters.data.name, min(parameters.cuts)),
        read=lambda wildcards: [slices(stage) for stage in stages_of(wildcards)],
        metrics=CHAIN / METRICS,
        checkpoints=lambda wildcards: [
            str(checkpoint_path(stage)) for stage in stages_of(wildcards)
        ],
        decoder=decoder,
        request=request(model_path("{chain}")),
    output:
        model_path("{chain}"),
    log:
        "logs/export/{chain}.log",
    conda:
        "../envs/spn.yaml"
    threads: 1
    resources:
        # One at most, and only for weights of half precision, which are evaluated again.
        gpu=0,
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "spn export {wildcards.chain} --data {input.data} --output {params.folder} --threads {threads} > {log} 2>&1"


rule complete_chain:
    input:
        data=slices_path(parameters.data.name, min(parameters.cuts)),
        model=model_path("{chain}"),
        request=request(completion_path("{chain}")),
    output:
        metrics=completion_path("{chain}"),
        picture=report(
            completion_path("{chain}").with_name(COMPLETED),
            caption="../captions/completed.rst",
            category="The rest of an image",
            labels={"chain": "{chain}"},
        ),
    log:
        "logs/complete_chain/{chain}.log",
    conda:
        "../envs/spn.yaml"
    threads: 1
    resources:
        # One at most: all of it is done by one process.
        gpu=0,
    params:
        folder=subpath(output.metrics, parent=True),
    shell:
        "spn complete_chain {wildcards.chain} --data {input.data} --output {params.folder} --threads {threads} > {log} 2>&1"


rule codec:
    input:
        data=slices_path(parameters.data.name, min(parameters.cuts)),
        model=model_path("{chain}"),
        nats=lambda wildcards: [
            str(stage_folder(stage) / NATS) for stage in stages_of(wildcards)
        ],
        request=request(rate_path("{chain}")),
    output:
        rate_path("{chain}"),
    log:
        "logs/codec/{chain}.log",
    conda:
        "../envs/spn.yaml"
    threads: 1
    shell:
        "spn codec {wildcards.chain} --data {input.data} --output {output} --threads {threads} > {log} 2>&1"


rule record:
    input:
        metrics=CHAIN / METRICS,
        samples=lambda wildcards: samples_of(wildcards.chain),
        first_stage=lambda wildcards: reconstruction_of(wildcards.chain),
        tried=lambda wildcards: tried(wildcards.chain),
        model=model_path("{chain}"),
        request=request(record_path("{chain}")),
    output:
        record_path("{chain}"),
    log:
        "logs/record/{chain}.log",
    conda:
        "../envs/spn.yaml"
    shell:
        "spn record {wildcards.chain} --output {output} > {log} 2>&1"
