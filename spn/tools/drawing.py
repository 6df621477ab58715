"""What `spn upscale`, `deepen` and `inpaint` share: options, the model, and what they write."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch

from spn.api import ChainModel, load
from spn.api.arguments import Label, labels_of
from spn.api.arrays import Images
from spn.api.folder import find
from spn.config import InputError
from spn.pipeline.place import choose_device
from spn.tools.sample import temperatures
from spn.tools.writing import check_images_output, write_output


class Options(TypedDict, total=False):
    """Options of the command line."""

    chain: str | None
    draws: int
    seed: int
    temperature: Sequence[str]
    only: int | None
    caption: str | None
    exact: bool
    batch_size: int | None
    device: str
    threads: int


def open_model(path: Path, read: Sequence[Path], output: Path, options: Options) -> tuple[ChainModel, dict[str, Any]]:
    """Load a model, and return the options of its methods.

    Raises InputError for an output of another kind, that cannot be written, or that is `read`.
    """
    check_images_output(output, [find(path, options.get("chain")), *read])
    model = load(path, options.get("chain"), choose_device(options.get("device", "auto"), options.get("threads", 1)))
    caption = options.get("caption")
    how = {
        "temperature": temperatures(options.get("temperature", ())),
        "label": options.get("only") if caption is None else caption,
        **{key: options[key] for key in ("draws", "seed", "exact") if key in options},
    }
    batch_size = options.get("batch_size")
    return model, how if batch_size is None else how | {"batch_size": batch_size}


def check_pictures(pictures: Sequence[Path], samples: int | None) -> None:
    """Raise InputError unless there are either pictures or a number of samples."""
    if bool(pictures) == (samples is not None):
        raise InputError(
            f"--samples: expected pictures or a number of samples, got {'both' if pictures else 'neither'}"
        )


def write_draws(model: ChainModel, output: Path, drawn: Any, given: Images | None, label: Label | None) -> Path:
    """Write all draws [draws, N, H, W, C], those of each image one after another; return the path.

    A grid has a row for each image: first what was given, then its draws. `label` is what they were drawn with.
    """
    draws = torch.as_tensor(drawn).transpose(0, 1)
    shown = draws if given is None else torch.cat([given[:, None], draws], dim=1)
    labels = labels_of(model.params, model.chain, len(draws), label, is_sampling=given is None)
    of_each = None if labels is None else labels.repeat_interleave(draws.shape[1], dim=0)
    write_output(model, output, draws.flatten(0, 1), shown.flatten(0, 1), shown.shape[1], of_each)
    return output
