"""From images to bit-depth-split HDF5 slice tensors."""


rule preprocess:
    input:
        # Whether they changed is told by their content, in the request, and not by their times.
        sources=ancient(source_files),
        request=request(slices_path("{dataset}", "{layout}")),
    output:
        slices_path("{dataset}", "{layout}"),
    log:
        "logs/preprocess/{dataset}/{layout}.log",
    conda:
        "../envs/spn.yaml"
    shell:
        "spn preprocess --layout {wildcards.layout} --output {output} > {log} 2>&1"
