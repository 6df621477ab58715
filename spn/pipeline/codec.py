"""Codes test images without loss with a chain, and compares the size of the file with their likelihood."""

from math import log
from pathlib import Path
from typing import Any

import torch

from spn.api import load
from spn.api.coding import check_exact, decode, encode
from spn.config import CodecSection, InputError, Params
from spn.data.hdf5 import SliceFile
from spn.evaluation.evaluate import load_nats
from spn.files import write_json
from spn.image import join_slices
from spn.notes import FILES, RECIPE, TRAINED, same_weights
from spn.paths import NATS, RESULTS, metrics_path, model_path, stage_folder
from spn.pipeline.names import stages_of
from spn.pipeline.place import choose_device
from spn.pipeline.reading import check_model, read_stage_metrics
from spn.provenance import codec_recipe, load_verb


def codec(
    params: Params, chain: str, data: Path, output: Path, results: Path = RESULTS, threads: int = 1
) -> dict[str, Any]:
    """Encode the first test images with a chain's model file, decode them again, and write their size to `output`.

    `data` is a file of slices of any scale factor. Returns what is written: the bits/dim of the file, without the
    model's weights, beside that of the evaluation of the same images, and in `bits` what lies between them: the
    evaluation's nats, the differences that the model file in float64, frequencies in whole numbers, ends of streams,
    and header with checksums make, and the file, which is their sum. Raises InputError if the chain's model file does
    not match `params`, codes no pixels, has no exact likelihood, or if the images do not come back.
    """
    choose_device("cpu", threads)
    names = stages_of(params, chain)
    for name in names:
        load_verb("codec", params.stages[name])
    slices, path = SliceFile(data), model_path(chain, results)
    check_model(params, chain, slices.digest, results)
    model = load(path)
    check_exact(model)
    indices = torch.arange(min((params.codec or CodecSection()).num_images, slices.num_images("test")))
    images = join_slices(slices.slices("test", indices))
    labels = slices.labels("test", indices) if params.num_classes(chain) else None
    coded = encode(model, list(images), labels)
    if not torch.equal(torch.stack(decode(model, coded.content)[1]), images):
        raise InputError(f"{path}: expected the {len(images)} encoded images when they are decoded, got others")
    metrics = {name: read_stage_metrics(params, name, results) for name in names}
    figures = {metrics_path(name, results): each for name, each in metrics.items()}
    weights = same_weights({path: model.notes} | figures)
    nats = 0.0
    for name, each in metrics.items():
        of_images = load_nats(stage_folder(name, results) / NATS, each[FILES][NATS])[: len(images)]
        nats += float(of_images.sum())
    evaluated, exact, size = nats / log(2), coded.nats / log(2), 8 * len(coded.content)
    found = {
        "chain": chain,
        "num_images": len(images),
        "bits_per_dim": coded.bits_per_dim,
        "evaluated_bits_per_dim": evaluated / coded.num_dims,
        "bits": {
            "evaluated": evaluated,
            "float64": exact - evaluated,
            "frequencies": coded.ideal_bits - exact,
            "ends_of_streams": coded.stream_bits - coded.ideal_bits,
            "header": size - coded.stream_bits,
            "file": size,
        },
        "num_streams": coded.num_streams,
        "model_bytes": path.stat().st_size,
    }
    write_json(output, found | {RECIPE: codec_recipe(params, chain, slices.digest), TRAINED: weights})
    return found
