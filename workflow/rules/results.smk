"""Tables and figures of all chains."""


rule report:
    input:
        data=LAYOUTS[0],
        metrics=expand("results/chains/{chain}/metrics.json", chain=parameters.chains),
        timings=sampled("timing.json"),
        checkpoints=expand(
            "results/stages/{stage}/checkpoint.safetensors",
            stage=parameters.stage_plans,
        ),
    output:
        metrics="results/metrics.json",
        shares="results/plots/bits_per_dim.csv",
        histories=expand(
            "results/plots/curves/{stage}.csv", stage=parameters.stage_plans
        ),
        table=report(
            "results/table.html",
            caption="../captions/table.rst",
            category="Bits/dim",
        ),
        bars=report(
            "results/plots/bits_per_dim.png",
            caption="../captions/bits_per_dim.rst",
            category="Bits/dim",
        ),
        curves=report(
            "results/plots/curves.png",
            caption="../captions/curves.rst",
            category="Training",
        ),
        real=report(
            "results/plots/real.png",
            caption="../captions/real.rst",
            category="Samples",
        ),
    log:
        "logs/report.log",
    conda:
        "../envs/spn.yaml"
    params:
        data=parameters.data.model_dump(mode="json"),
        chains={name: chain.stages for name, chain in parameters.chains.items()},
        num_images=parameters.sampling.num_images,
        code=code_digest("report", "evaluation/speed.py"),
    shell:
        "spn report --data {input.data} > {log} 2>&1"
