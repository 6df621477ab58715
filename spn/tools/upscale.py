"""Draws larger pictures whose sub-sampled pixels are those of the given pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from spn.api.completion import scale_factor
from spn.tools.drawing import Options, check_pictures, open_model, write_draws
from spn.tools.reading import read_levels


def upscale(
    model: Path,
    pictures: Sequence[Path] = (),
    output: Path = Path("upscaled.png"),
    *,
    samples: int | None = None,
    fit: bool = False,
    **options: Unpack[Options],
) -> Path:
    """Take pictures as slice (0,0), draw the other slices, and write all draws to `output`; return its path.

    Pictures have the model's height and width divided by the scale factor S of its first stage. With `samples` so many
    samples of the first stages are upscaled instead. `output` is as in `spn sample`; a grid has each picture, enlarged,
    and its draws in a row. Raises InputError for a chain without slices, and pictures of another size, mode or depth.
    """
    check_pictures(pictures, samples)
    trained, how = open_model(model, pictures, output, options)
    size, (height, width, channels) = scale_factor(trained), trained.shape
    if samples is not None:
        return write_draws(trained, output, trained.upscale(num_images=samples, **how), None, how["label"])
    small = (height // size, width // size, channels)
    _, levels = read_levels(pictures, trained.params.data, fit=fit, shape=small, lossless=True)
    enlarged = levels.repeat_interleave(size, dim=1).repeat_interleave(size, dim=2)
    return write_draws(trained, output, trained.upscale(levels, **how), enlarged, how["label"])
