"""From images to bit-depth-split HDF5 slice tensors."""


rule preprocess:
    input:
        source_files,
    output:
        "data/{dataset}/{layout}.h5",
    log:
        "logs/preprocess/{dataset}/{layout}.log",
    conda:
        "../envs/spn.yaml"
    params:
        # Without the digest of the source, which decides whether the file is made, not what is in it.
        data=parameters.data.model_dump(mode="json", exclude={"source_digest"}),
        code=code_digest("data/preprocess.py"),
    shell:
        "spn preprocess --layout {wildcards.layout} --output {output} > {log} 2>&1"
