"""Tables and figures of all chains."""


rule report:
    input:
        data=LAYOUTS[0],
        metrics=expand("results/chains/{chain}/metrics.json", chain=parameters.chains),
        samples=[
            f"results/chains/{name}/{stage}/{file}"
            for name, chain in parameters.chains.items()
            for stage in chain.stages
            for file in ("samples.h5", "samples.png")
        ],
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
            labels={"of all chains": "1. table"},
        ),
        bars=report(
            "results/plots/bits_per_dim.png",
            caption="../captions/bits_per_dim.rst",
            category="Bits/dim",
            labels={"of all chains": "2. sums over their stages"},
        ),
        curves=report(
            "results/plots/curves.png",
            caption="../captions/curves.rst",
            category="Training",
            labels={"of all chains": "curves of their stages"},
        ),
        # First of the samples' table, which is sorted by its labels.
        gallery=report(
            "results/plots/samples.html",
            caption="../captions/gallery.rst",
            category="Samples",
            labels={"chain": "(all)", "after stage": "(beside real images)"},
        ),
        real=report(
            "results/plots/real.png",
            caption="../captions/real.rst",
            category="Samples",
            labels={"chain": "(real images)", "after stage": ""},
        ),
    log:
        "logs/report.log",
    conda:
        "../envs/spn.yaml"
    shell:
        "spn report --data {input.data} > {log} 2>&1"
