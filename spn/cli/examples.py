"""One example of every verb, which its --help ends with; names are those of the default experiment."""

_DATA, _LOW = "--data data/digits/S2_2+3.h5", "--checkpoint results/stages/low/checkpoint.safetensors"

EXAMPLES = {
    "preprocess": "spn preprocess --layout S2_2+3 --output data/digits/S2_2+3.h5",
    "train": f"spn train low {_DATA} --output results/stages/low",
    "evaluate": f"spn evaluate low {_DATA} {_LOW} --output results/stages/low",
    "check": "spn check low",
    "plan": "spn plan --params presets/photos.yaml",
    "sample": f"spn sample multidimensional low {_DATA} {_LOW} --output results/chains/multidimensional/low"
    " --given results/chains/multidimensional/rest_high/samples.h5",
    "summarise": "spn summarise multidimensional --output results/chains/multidimensional/metrics.json",
    "record": "spn record depth --output mlflow/chains/depth.json",
    "report": "spn report --data data/digits/S2_2+3.h5",
    "verify": "spn verify",
    "watch": "spn watch",
    "schema": "spn schema > params.schema.json",
}
