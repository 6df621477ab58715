"""Tables and figures of all chains."""

PLOTS = plots_folder()


rule report:
    input:
        data=slices_path(parameters.data.name, min(parameters.cuts)),
        metrics=[summary_path(chain) for chain in parameters.chains],
        samples=[file for chain in parameters.chains for file in samples_of(chain)],
        checkpoints=[checkpoint_path(stage) for stage in parameters.stage_plans],
        codes=[codes_path(name) for name in parameters.first_stage_plans],
        inpainting=[
            inpainting_path(chain)
            for chain in parameters.chains
            if parameters.inpainting
        ],
        request=request(report_path()),
    output:
        made=report_path(),
        metrics=RESULTS / METRICS,
        shares=PLOTS / "bits_per_dim.csv",
        histories=[PLOTS / f"curves/{stage}.csv" for stage in parameters.stage_plans],
        table=report(
            PLOTS / "table.html",
            caption="../captions/table.rst",
            category="Bits/dim",
            labels={"of all chains": "1. table"},
        ),
        bars=report(
            PLOTS / "bits_per_dim.png",
            caption="../captions/bits_per_dim.rst",
            category="Bits/dim",
            labels={"of all chains": "2. sums over their stages"},
        ),
        curves=report(
            PLOTS / "curves.png",
            caption="../captions/curves.rst",
            category="Training",
            labels={"of all chains": "curves of their stages"},
        ),
        # First among the samples, which the report sorts by labels.
        gallery=report(
            PLOTS / "samples.html",
            caption="../captions/gallery.rst",
            category="Samples",
            labels={"chain": "(all)", "after stage": "(beside real images)"},
        ),
        real=report(
            PLOTS / "real.png",
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
