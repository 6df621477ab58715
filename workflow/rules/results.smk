"""Tables and figures of all chains."""


rule report:
    input:
        data=LAYOUTS[0],
        metrics=expand("results/chains/{chain}/metrics.json", chain=parameters.chains),
        checkpoints=expand(
            "results/stages/{stage}/checkpoint.safetensors",
            stage=parameters.stage_plans,
        ),
        request=request("results/plots/report.json"),
    output:
        made="results/plots/report.json",
        metrics="results/metrics.json",
        shares="results/plots/bits_per_dim.csv",
        histories=expand(
            "results/plots/curves/{stage}.csv", stage=parameters.stage_plans
        ),
        table=report(
            "results/plots/table.html",
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
    shell:
        "spn report --data {input.data} > {log} 2>&1"
