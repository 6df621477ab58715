"""Draws the low bits of pictures, given their high bits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from spn.api.completion import high_bits
from spn.config.tiling import bit_mask
from spn.tools.drawing import Options, check_pictures, open_model, write_draws
from spn.tools.reading import read_levels


def deepen(
    model: Path,
    pictures: Sequence[Path] = (),
    output: Path = Path("deepened.png"),
    *,
    samples: int | None = None,
    fit: bool = False,
    **options: Unpack[Options],
) -> Path:
    """Keep the high bits of pictures, draw their low bits, and write all draws to `output`; return its path.

    High bits are those that the stages before the first of low bits generate. With `samples` so many samples of these
    stages are deepened instead. `output` is as in `spn sample`; a grid has the high bits of each picture and its draws
    in a row. Raises InputError for a chain without stages of low bits, and pictures of another size or mode.
    """
    check_pictures(pictures, samples)
    trained, how = open_model(model, pictures, output, options)
    (high, _), data = high_bits(trained), trained.params.data
    if samples is not None:
        return write_draws(trained, output, trained.deepen(num_images=samples, **how), None, how["label"])
    _, levels = read_levels(pictures, data, fit=fit, lossless=True, all_bits=False)
    cut = levels & bit_mask((0, high), data.bits)
    return write_draws(trained, output, trained.deepen(levels, **how), cut, how["label"])
