"""Tables and figures of all chains."""

PLOTS = plots_folder()


rule report:
    input:
        data=slices_path(parameters.data.name, min(parameters.cuts)),
        metrics=[summary_path(chain) for chain in parameters.chains],
        figures=[
            stage_folder(stage) / file
            for stage in parameters.stage_plans
            for file in (METRICS, NATS)
        ],
        samples=[file for chain in parameters.chains for file in samples_of(chain)],
        checkpoints=[checkpoint_path(stage) for stage in parameters.stage_plans],
        codes=[codes_path(name) for name in parameters.first_stage_plans],
        tried=[path for chain in parameters.chains for path in tried(chain)],
        request=request(report_path()),
    output:
        made=report_path(),
        metrics=RESULTS / METRICS,
        shares=PLOTS / "bits_per_dim.csv",
        histories=[PLOTS / f"curves/{stage}.csv" for stage in parameters.stage_plans],
        # First in the report, which sorts by categories and labels.
        gallery=report(
            PLOTS / GALLERY,
            caption="../captions/gallery.rst",
            category="All on one page",
            labels={"of all chains": "bits/dim, curves, samples"},
        ),
        bars=report(
            PLOTS / BARS,
            caption="../captions/bits_per_dim.rst",
            category="Bits/dim",
            labels={"of all chains": "sums over their stages"},
        ),
        curves=report(
            PLOTS / CURVES,
            caption="../captions/curves.rst",
            category="Training",
            labels={"of all chains": "curves of their stages"},
        ),
        real=report(
            PLOTS / REAL,
            caption="../captions/real.rst",
            category="Samples",
            labels={"chain": "(real images)", "after stage": ""},
        ),
    log:
        "logs/report.log",
    conda:
        "../envs/spn.yaml"
    threads: 1
    resources:
        # One at most, to score samples.
        gpu=0,
    shell:
        "spn report --data {input.data} --threads {threads} > {log} 2>&1"
