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
        data=parameters.data.model_dump(mode="json"),
        code=code_digest("data/preprocess.py"),
    shell:
        "spn preprocess --layout {wildcards.layout} --output {output} > {log} 2>&1"
