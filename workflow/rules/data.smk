"""From images to bit-depth-split HDF5 slice tensors."""


rule preprocess:
    input:
        # Their content decides whether they changed (see `request`), not their times.
        sources=ancient(source_files),
        request=request(slices_path("{dataset}", "{scale_factor}")),
    output:
        slices_path("{dataset}", "{scale_factor}"),
    log:
        "logs/preprocess/{dataset}/S{scale_factor}.log",
    conda:
        "../envs/spn.yaml"
    # Snakemake takes as many as there are. Only pictures are decoded in several processes.
    threads: 8 if parameters.data.source == "folder" else 1
    shell:
        "spn preprocess --scale-factor {wildcards.scale_factor} --output {output} --threads {threads} > {log} 2>&1"
