"""All pictures on one page: samples of each chain, stage by stage, beside real images; inpaintings; reconstructions."""

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from spn.config import InputError, Params
from spn.paths import INPAINTED, PICTURE, RECONSTRUCTIONS, inpainting_path, samples_path, stage_folder
from spn.report.html import page, table
from spn.report.tables import Pictured

NOTE = (
    "Samples after each stage, not selected; bits that later stages generate are still 0. Beside them are "
    "the first images of the test split, at the same scale; no model was trained on them."
)


INPAINTED_NOTE = (
    "The first test images, one a row. For each mask: the image with the hidden half in grey, then what the chain "
    "filled in, not selected."
)
BITS = "conditional_bits_per_dim"
ERRORS = (
    "Mean absolute error of hidden levels over all results, ± one standard error over images; and the exact bits/dim "
    "of what is hidden, given the rest, where the order of a chain gives them."
)

RECONSTRUCTED_NOTE = (
    "The first test images, and below them what first stages make of their codes, not selected. The figures are those "
    "of the whole test split: peak signal-to-noise ratio, structural similarity, the share of codes that are used, and "
    "the perplexity of their frequencies."
)


def html_gallery(params: Params, results: Path, real: Path, pictured: Pictured) -> str:
    """Lay out a row for each chain: the real images, then the grid of samples after each stage.

    Below are the inpaintings of every chain, and the reconstructions of every first stage, if there are any. The page
    embeds pictures below `results`, and that at `real`. Raises InputError for one that cannot be read.
    """
    rows = "".join(
        _row(chain, {"real images": real} | {name: _picture_of(results, chain, name) for name in section.stages})
        for chain, section in params.chains.items()
    )
    if found := pictured.inpaintings:
        rows += f"<h1>Inpainting</h1>\n{_errors(params, found)}<p>{INPAINTED_NOTE}</p>\n"
        said = ", ".join(("images", *(f"hidden {mask} half" for mask in next(iter(found.values())))))
        pictures = {chain: inpainting_path(chain, results).with_name(INPAINTED) for chain in found}
        rows += _row(said, pictures, numbered=False)
    if pictured.reconstructions:
        rows += f"<h1>Reconstructions</h1>\n<p>{RECONSTRUCTED_NOTE}</p>\n"
        rows += "".join(
            _reconstructed(name, figures, stage_folder(name, results) / RECONSTRUCTIONS)
            for name, figures in pictured.reconstructions.items()
        )
    return page(f"Samples of {params.data.name}", f"<p>{NOTE}</p>\n{rows}")


def _picture_of(results: Path, chain: str, stage: str) -> Path:
    return samples_path(chain, stage, results).with_name(PICTURE)


def _errors(params: Params, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Lay out how far chains are off, mask by mask."""
    masks = list(next(iter(found.values())))
    stated = [mask for mask in masks if any(BITS in figures[mask] for figures in found.values())]
    rows = [
        (
            f"{chain} (given each image's class)" if params.num_classes(chain) else chain,
            *(_figure(figures[mask]["absolute_error"]) for mask in masks),
            *(_figure(figures[mask].get(BITS)) for mask in stated),
        )
        for chain, figures in found.items()
    ]
    header = ("chain", *(f"error, {mask}" for mask in masks), *(f"bits/dim, {mask}" for mask in stated))
    return table(ERRORS, header, rows, numbers=range(1, len(header)))


def _figure(found: Mapping[str, float | None] | None) -> str:
    if found is None:
        return ""
    error = found["standard_error"]
    return f"{found['mean']:.2f}" + ("" if error is None else f" ± {error:.2f}")


def _reconstructed(name: str, figures: Mapping[str, Any], picture: Path) -> str:
    """Lay out the reconstructions of a first stage, under its figures."""
    psnr = "lossless" if figures["psnr"] is None else f"{figures['psnr']:.1f} dB"
    said = (
        f"PSNR {psnr}, SSIM {figures['ssim']:.3f}; {figures['codes_used']:.0%} of {figures['num_codes']} codes used, "
        f"perplexity {figures['perplexity']:.1f}"
    )
    return _row(name, {said: picture}, numbered=False)


def _row(title: str, pictures: dict[str, Path], numbered: bool = True) -> str:
    """Lay out pictures side by side, those of a chain's stages numbered."""
    figures = "".join(
        f"<figure><figcaption>{f'{place}. ' if place and numbered else ''}{escape(name)}</figcaption>"
        f'<img alt="{escape(title)}: {escape(name)}" '
        f'src="data:image/png;base64,{_base64(path)}"></figure>\n'
        for place, (name, path) in enumerate(pictures.items())
    )
    return f"<h2>{escape(title)}</h2>\n<section>\n{figures}</section>\n"


def _base64(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise InputError(f"{path}: expected a picture of samples: {error.strerror}") from error
