"""The `--help` of every verb: a sentence, and an example from the default experiment."""

HELP = {
    "preprocess": "Turn a data source into bit-depth-split HDF5 slice tensors.",
    "train": "Train one stage or first stage, or resume a killed training; return at once if it is trained.",
    "extract_codes": "Make the codes of all images under a trained first stage, and say how well it reconstructs.",
    "evaluate": "Compute a stage's nats over the whole test split: exact, or the bound that its law gives.",
    "adopt": "Give checkpoints the recipe of refactored code, if evaluating them gives the same nats as before.",
    "check": "Check stages for leaks (autograd), and that probabilities sum to one and bounds are bounds (tiny grids).",
    "plan": "Forecast parameters, FLOPs, memory, sampling steps and times of every stage, before anything runs.",
    "sample_stage": "Sample one stage of a chain, given the samples of the stage before, and time it.",
    "complete_chain": "Draw the rest of test images given a part of them, and measure how far off it is.",
    "codec": "Code test images without loss, and compare the size of the file with their likelihood.",
    "summarise": "Add the nats of a chain's stages.",
    "mix_orders": "Evaluate a chain that is a mixture of orders: over every view of an image, mixed exactly.",
    "export": "Write a trained chain as one file, for `spn.load` and the verbs that take a model.",
    "record": "Record a chain as an MLflow run, linked to the runs of its stages.",
    "report": "Write the tables and figures of the whole experiment.",
    "verify": "Compare every result with params.yaml, the code and the sources; print the table and what changed.",
    "init": "Write an experiment on your own pictures: sizes and steps for this machine and a time of training.",
    "sample": "Sample images from a trained chain.",
    "upscale": "Draw larger pictures whose sub-sampled pixels are the given picture, exactly.",
    "deepen": "Draw the low bits of pictures; the high bits stay, exactly.",
    "inpaint": "Draw hidden pixels of pictures; the others stay, exactly.",
    "score": "Compute the exact bits/dim of pictures under a trained chain, and what each stage adds.",
    "encode": "Code pictures of any size in one file without loss, by the likelihood of a trained chain.",
    "decode": "Decode pictures that `spn encode` wrote, pixel for pixel, with the same model.",
    "info": "Describe a trained chain, or a file of coded pictures.",
    "card": "Write a model card, or a folder as model hubs expect it.",
    "watch": "Show the progress of all running jobs, until none are left, or Ctrl-C.",
    "schema": "Print the JSON schema of params.yaml.",
}

_ORDER = """\
What is drawn is conditioned on what comes before it in the chain's order, given or drawn, and on nothing that comes
after it, even if that is given. A raster chain that fills in the upper half never looks at the lower half, and a seam
may show. With slices, given pixels of earlier slices are seen on all sides, as far as the network reaches; with low
bits after high ones, given high bits are. Scales of a diffusion (ImageBART) see both sides at every scale."""

MORE = {
    "upscale": f"""\
The picture is slice (0,0): it has the model's height and width, divided by the scale factor S of the first stage.
Pixels [::S, ::S] of the result are the picture. Bits of slice (0,0) that a chain generates later are seen later. Chains
without slices are refused.

{_ORDER}""",
    "deepen": """\
High bits are those that the stages before the first of low bits generate; the low bits of the picture do not count.
Chains without stages of low bits are refused.""",
    "inpaint": f"""\
{_ORDER}

--draws K --pick likelihood keeps the likeliest of K draws, by the exact log-likelihood of the whole picture, which also
tells how well given pixels fit to what was drawn before them. It is a choice among K draws in the chain's order, and no
draw from the law given all known pixels. Likely does not mean good: flat fillings are likely.""",
}
"""What `--help` of a verb says below its sentence."""

_DATA, _LOW = "--data data/digits/S2.h5", "--checkpoint results/stages/low/checkpoint.safetensors"
_MODEL = "results/chains/multidimensional/model.safetensors"

EXAMPLES = {
    "preprocess": "spn preprocess --scale-factor 2 --output data/digits/S2.h5",
    "train": f"spn train low {_DATA} --output results/stages/low",
    "extract_codes": "spn extract_codes vq --data data/digits/S1.h5"
    " --checkpoint results/stages/vq/checkpoint.safetensors --output results/stages/vq",
    "evaluate": f"spn evaluate low {_DATA} {_LOW} --output results/stages/low",
    "adopt": "spn adopt first_high rest_high low",
    "check": "spn check low",
    "plan": "spn plan --params presets/imagenet64.yaml --gpu H100 --gpus 8",
    "sample_stage": f"spn sample_stage multidimensional low {_DATA} {_LOW} --output results/chains/multidimensional/low"
    " --given results/chains/multidimensional/rest_high/samples.h5",
    "complete_chain": "spn complete_chain multidimensional --data data/digits/S2.h5 --output completed",
    "codec": "spn codec multidimensional --data data/digits/S2.h5 --output rate.json",
    "summarise": "spn summarise multidimensional --output results/chains/multidimensional/metrics.json",
    "mix_orders": "spn mix_orders both_ways --output results/chains/both_ways",
    "export": "spn export multidimensional --data data/digits/S1.h5 --output results/chains/multidimensional",
    "record": "spn record depth --output mlflow/chains/depth.json",
    "report": "spn report --data data/digits/S2.h5",
    "verify": "spn verify",
    "init": "spn init flowers --pictures pictures/flowers --size 32 --minutes 30",
    "sample": f"spn sample {_MODEL} -n 64 --seed 7 --temperature first_high=0.99 -o grid.png",
    "upscale": f"spn upscale {_MODEL} small.png --draws 6 -o upscaled.png",
    "deepen": f"spn deepen {_MODEL} --samples 4 --draws 6 -o deepened.png",
    "inpaint": f"spn inpaint {_MODEL} picture.png --mask mask.png --draws 16 --pick likelihood -o inpainted.png",
    "score": f"spn score {_MODEL} pictures --map bits.png",
    "encode": f"spn encode {_MODEL} pictures -o pictures.spn",
    "decode": f"spn decode {_MODEL} pictures.spn -o decoded",
    "info": f"spn info {_MODEL}",
    "card": f"spn card {_MODEL} -o card.md",
    "watch": "spn watch",
    "schema": "spn schema > params.schema.json",
}
