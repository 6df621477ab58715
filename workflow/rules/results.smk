"""Tables, figures, and the last word on whether the results are those of params.yaml."""


rule report:
    input:
        data=LAYOUTS[0],
        metrics=expand("results/chains/{chain}/metrics.json", chain=parameters.chains),
        histories=expand("results/stages/{stage}/history.csv", stage=parameters.stage_plans),
    output:
        metrics="results/metrics.json",
        shares="results/plots/bits_per_dim.csv",
        histories=expand("results/plots/curves/{stage}.csv", stage=parameters.stage_plans),
        table=report("results/plots/table.html", caption="../captions/table.rst", category="Bits/dim"),
        bars=report("results/plots/bits_per_dim.png", caption="../captions/bits_per_dim.rst", category="Bits/dim"),
        curves=report("results/plots/curves.png", caption="../captions/curves.rst", category="Training"),
        real=report("results/plots/real.png", caption="../captions/real.rst", category="Samples"),
    log:
        "logs/report.log",
    params:
        data=parameters.data.model_dump(mode="json"),
        chains={name: chain.stages for name, chain in parameters.chains.items()},
        code=code_digest("report"),
    shell:
        "spn report --data {input.data} > {log} 2>&1"


# Without outputs, so it runs whenever it is asked for: Snakemake's records and DVC's can both be made to look away.
rule reproduce:
    default_target: True
    input:
        rules.report.output,
        data=LAYOUTS,
        metrics=expand("results/stages/{stage}/metrics.json", stage=parameters.stage_plans),
        samples=[
            f"results/chains/{name}/{stage}/samples.png"
            for name, chain in parameters.chains.items()
            for stage in chain.stages
        ],
        runs=expand("mlflow/chains/{chain}.json", chain=parameters.chains),
    log:
        "logs/reproduce.log",
    shell:
        "spn verify --data {input.data} | tee {log}"
