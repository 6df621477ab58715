"""Samples a trained chain into a picture, an array, an HDF5 file or a folder of pictures."""

from collections.abc import Sequence
from pathlib import Path

import torch

from spn.api import load
from spn.api.arguments import labels_of
from spn.api.folder import find
from spn.config import InputError
from spn.generation.sample import SAMPLING_BATCH_SIZE
from spn.pipeline.place import choose_device
from spn.report.pictures import class_columns
from spn.tools.writing import check_images_output, check_numbers, write_output


def sample(
    model: Path,
    output: Path,
    *,
    chain: str | None = None,
    num_images: int = 16,
    seed: int = 1,
    temperature: Sequence[str] = (),
    only: int | None = None,
    caption: str | None = None,
    strip: bool = False,
    exact: bool = False,
    batch_size: int | None = None,
    device: str = "auto",
    threads: int = 1,
) -> Path:
    """Sample images from a model and write them to `output`; return its path.

    A path ending in .png is a grid, .npy an array uint8 [N, H, W, C] of levels, .h5 a file of images like those of the
    workflow, and a path without a suffix a folder of PNG pictures. `strip` draws one row for each image, with a column
    after each stage. `temperature` has a number for all stages, or STAGE=NUMBER for some. Raises InputError for
    arguments that do not fit the model.
    """
    check_images_output(output, [find(model, chain)])
    check_numbers(output, num_images)
    if strip and output.suffix.lower() != ".png":
        raise InputError(f"--output: expected .png for --strip, got {output}")
    trained = load(model, chain, choose_device(device, threads))
    label = only if caption is None else caption
    after = dict(
        trained.sample_stages(
            num_images,
            seed=seed,
            temperature=temperatures(temperature),
            label=label,
            batch_size=SAMPLING_BATCH_SIZE if batch_size is None else batch_size,
            exact=exact,
        )
    )
    steps = [torch.from_numpy(images) for images in after.values()]
    images = torch.stack(steps, dim=1).flatten(0, 1) if strip else steps[-1]
    labels = labels_of(trained.params, trained.chain, num_images, label, is_sampling=True)
    columns = len(after) if strip else class_columns(labels if label is None else None)
    write_output(trained, output, steps[-1], images, columns, labels)
    return output


def temperatures(texts: Sequence[str]) -> float | dict[str, float] | None:
    """Read temperatures: one number for all stages, or STAGE=NUMBER for some; raise InputError for others."""
    found: dict[str, float] = {}
    for text in texts:
        stage, is_of_stage, number = text.rpartition("=")
        try:
            found[stage] = float(number if stage or not is_of_stage else text)
        except ValueError as error:
            raise InputError(f"--temperature: expected a number or STAGE=NUMBER, got {text}") from error
    if "" in found:
        if len(texts) > 1:
            raise InputError(f"--temperature: expected one number or STAGE=NUMBER, got {' '.join(texts)}")
        return found[""]
    if len(found) < len(texts):
        raise InputError(f"--temperature: expected each stage once, got {' '.join(texts)}")
    return found or None
