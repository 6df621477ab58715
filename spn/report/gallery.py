"""The page of the report: figures, curves, and the pictures of every chain, in one file that loads nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from torch import Tensor

from spn.config import InputError, Params
from spn.evaluation.neighbours import Neighbours
from spn.image import split_slices
from spn.paths import BARS, COMPLETED, CURVES, RECONSTRUCTIONS, completion_path, plots_folder, stage_folder
from spn.report.html import page, picture, picture_table, table, tiles
from spn.report.html_table import html_table
from spn.report.pictures import draw_picture, tile_factor
from spn.report.tables import ChainMetrics, Pictured, chain_text, is_bound, is_of_codes, total_text

Images = UInt8[Tensor, "image height width channel"]
Bits = Float64[np.ndarray, " image"]


@dataclass(frozen=True)
class Shown:
    """The first samples of a chain, and what it says of some real images."""

    after: Mapping[str, Images]
    """The samples after each stage."""
    near: Neighbours
    """The nearest training images of the first of them, as many as are shown after every stage."""
    bits: Bits
    """Bits/dim of each sample, or bits per code."""
    tags: tuple[str, ...]
    """What each sample was conditioned on; empty if on nothing."""
    real_bits: Float64[np.ndarray, " real"]
    real_tags: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """Real images, with their nearest training images, and what every chain made."""

    real: Images
    near: Neighbours
    chains: Mapping[str, Shown]


CURVES_NOTE = (
    "Estimates made during training from one slice of each image; the exact figures are those of the table. The thin "
    "line is the mean over training batches with the current weights, markers are the validation split with averaged "
    "weights."
)
SAMPLES_NOTE = (
    "Of every chain below, the first samples are shown, not selected: first some of them after each stage, one a row, "
    "beside the nearest of all training images; then more of them, and test images, each above its bits/dim under that "
    "chain. The fewer bits, the likelier the chain finds the image. Bits that later stages generate are still 0, so "
    "that images after early stages are darker."
)
REAL_NOTE = (
    "For comparison, here are test images, evenly spaced over the split, each beside its nearest training image. The "
    "number is the mean absolute difference of their levels, which are 0 to {white}. It is {least:.2f} to "
    "{most:.2f}, on average {mean:.2f}; a sample much closer to a training image would be a copy."
)
FIRST_SLICE, NEAREST, DIFFERS = "first slice, at its own size", "nearest training image", "differs by"
TEMPERED = "Samples were drawn at another temperature or from fewer levels, which their {unit} leave out."
COMPLETED_NOTE = (
    "The first test images, one a row. Beside each part that a chain is given is what it drew, not selected: given a "
    "half, slice (0,0), which is upscaled, or the high bits, which are deepened. What is given stays exactly. The last "
    "column has the bits that each pixel costs under the chain: where it is surprised."
)
ERROR, BITS = "absolute_error", "conditional_bits_per_dim"
ERRORS = (
    "Mean absolute error of drawn levels over all results, ± one standard error over images; and the exact bits/dim "
    "of what is hidden, given the rest, where the order of a chain gives them."
)
CODED = (
    "The first test images, encoded without loss by a chain's model file, and decoded again: the size of the file, "
    "without the weights, beside the likelihood that was evaluated. The bits between them: float64 in place of the "
    "evaluation's float32 (and the rounded weights of an export in half precision), frequencies in whole numbers, ends "
    "of streams, and the header with its checksums."
)

RECONSTRUCTED_NOTE = (
    "Test images, evenly spaced over the split, and below them what first stages make of their codes, not selected. "
    "The figures are those of the whole test split: peak signal-to-noise ratio, structural similarity, the share of "
    "codes that are used, and the perplexity of their frequencies."
)


def html_gallery(
    params: Params, chain_metrics: ChainMetrics, gallery: Gallery, results: Path, pictured: Pictured
) -> str:
    """Lay out the page: the table, the curves, real images, and then what each chain made.

    Below are the sizes of coded images, what every chain draws given a part of images, and the reconstructions of every
    first stage, if there are any. The page embeds pictures below `results`. Raises InputError for one that cannot be
    read.
    """
    plots = plots_folder(results)
    parts = {
        "Bits/dim": html_table(params, chain_metrics) + _drawing("bits/dim of each chain", plots / BARS),
        "Training": f"<p>{CURVES_NOTE}</p>\n" + _drawing("training curves", plots / CURVES),
        "Samples and real images": _real_images(params, gallery),
        **{f"Chain {chain}": _chain(params, chain, chain_metrics[chain], gallery) for chain in gallery.chains},
    }
    if pictured.rates:
        parts["Lossless coding"] = _coded(pictured.rates)
    if pictured.completions:
        parts["The rest of an image"] = _completed(params, pictured.completions, results)
    if found := pictured.reconstructions:
        pictures = {name: stage_folder(name, results) / RECONSTRUCTIONS for name in found}
        said = "".join(_reconstructed(name, figures, pictures[name]) for name, figures in found.items())
        parts["Reconstructions"] = f"<p>{RECONSTRUCTED_NOTE}</p>\n{said}"
    return page(f"Report on {params.data.name}", parts)


def class_text(params: Params, label: int) -> str:
    """Name a class."""
    names = params.data.class_names
    return names[label] if names else f"class {label}"


def _real_images(params: Params, gallery: Gallery) -> str:
    near = gallery.near
    pairs = [
        (f"{_image(params, image, 'test image')} {_image(params, other, NEAREST)}", [f"{far:.2f}"])
        for image, other, far in zip(gallery.real, near.images, near.distances, strict=True)
    ]
    least, most, mean = near.distances.min(), near.distances.max(), near.distances.mean()
    note = REAL_NOTE.format(white=params.data.white_level, least=least, most=most, mean=mean)
    return f"<p>{SAMPLES_NOTE}</p>\n<p>{note}</p>\n{tiles(pairs)}"


def _chain(params: Params, chain: str, metrics: Mapping[str, Any], gallery: Gallery) -> str:
    """Lay out the figure of a chain, some samples after each stage, and more beside real images."""
    shown, section, bounds = gallery.chains[chain], params.chains[chain], is_bound(metrics)
    unit = "bits per code" if is_of_codes(metrics) else "bits/dim"
    said = f"{chain_text(chain, metrics)}: {total_text(metrics)} {unit}{', an upper bound' * bounds}"
    tempered = f"<p>{TEMPERED.format(unit=unit)}</p>\n" * bool(section.temperature or section.top_k)
    samples = _scored(params, "sample", list(shown.after.values())[-1], shown.bits, shown.tags, bounds)
    real = _scored(params, "test image", gallery.real, shown.real_bits, shown.real_tags, bounds)
    return (
        f"<p>{escape(said)}, over the test split.</p>\n{_strip(params, chain, shown)}{tempered}"
        f'<div class="columns">\n<div>\n<h3>samples, and their {unit}</h3>\n{samples}</div>\n'
        f"<div>\n<h3>test images, and their {unit}</h3>\n{real}</div>\n</div>\n"
    )


def _strip(params: Params, chain: str, shown: Shown) -> str:
    """Lay out some samples: a row for each, with a column after each stage and its nearest training image."""
    first = _first_slices(params, chain, shown)
    columns = {
        **({} if first is None else {FIRST_SLICE: first}),
        **{f"{place}. {stage}": images for place, (stage, images) in enumerate(shown.after.items(), 1)},
    }
    factor = tile_factor(params.data.shape[1])
    rows = []
    for number, (near, far) in enumerate(zip(shown.near.images, shown.near.distances, strict=True)):
        stages = [_image(params, images[number], name, factor) for name, images in columns.items()]
        tag = [escape(tag) for tag in shown.tags[number : number + 1]]
        rows.append([*tag, *stages, _image(params, near, NEAREST), f"{far:.2f} levels"])
    return picture_table([*("given" for _ in shown.tags[:1]), *columns, NEAREST, DIFFERS], rows)


def _first_slices(params: Params, chain: str, shown: Shown) -> Images | None:
    """Cut out what the first stages generate if it is the first slice alone."""
    alone: Images | None = None
    for stage, images in shown.after.items():
        if stage not in params.stages or params.stages[stage].slices != "first" or params.codes(chain) is not None:
            break
        alone = split_slices(images, params.stages[stage].scale_factor)[:, 0, 0]
    return alone


def _scored(params: Params, name: str, images: Images, bits: Bits, tags: Sequence[str], is_bound: bool) -> str:
    texts = [f"{'≤ ' * is_bound}{each:.2f}" for each in bits]
    captions = [[tag, text] for tag, text in zip(tags, texts, strict=True)] if tags else [[text] for text in texts]
    return tiles((_image(params, image, name), lines) for image, lines in zip(images, captions, strict=True))


def _image(params: Params, image: UInt8[Tensor, "height width channel"], alt: str, factor: int | None = None) -> str:
    """Embed an image of levels, enlarged by a factor; without one as much as its width needs."""
    height, width, _ = image.shape
    factor = factor or tile_factor(width)
    size = f'width="{factor * width}" height="{factor * height}" '
    return picture(draw_picture(image, params.data.white_level), alt, size)


def _coded(rates: Mapping[str, Mapping[str, Any]]) -> str:
    """Lay out the size of every chain's coded images, and what lies between it and their likelihood."""
    rows = []
    for chain, rate in rates.items():
        evaluated, *between, size = rate["bits"].values()
        rows.append(
            (
                chain,
                f"{rate['num_images']:,}",
                f"{rate['evaluated_bits_per_dim']:.4f}",
                f"{rate['bits_per_dim']:.4f}",
                f"{evaluated:,.1f}",
                *(f"{bits:+,.1f}" for bits in between),
                f"{size:,}",
            )
        )
    between = ("float64", "frequencies", "ends of streams", "header")
    header = ("chain", "images", "bits/dim, evaluated", "bits/dim, file", "bits, evaluated", *between, "bits, file")
    return table(CODED, header, rows, numbers=range(1, len(header)))


def _completed(params: Params, found: Mapping[str, Mapping[str, Any]], results: Path) -> str:
    pictures = {chain: completion_path(chain, results).with_name(COMPLETED) for chain in found}
    drawn = "".join(
        f"<h3>{escape(chain)}</h3>\n" + _drawing(f"images completed by {chain}", path)
        for chain, path in pictures.items()
    )
    return f"{_errors(params, found)}<p>{COMPLETED_NOTE}</p>\n{drawn}"


def _errors(params: Params, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Lay out how far chains are off, for each part that is given."""
    names = list(dict.fromkeys(name for figures in found.values() for name in figures))
    stated = [name for name in names if any(BITS in figures.get(name, {}) for figures in found.values())]
    rows = [
        (
            f"{chain} (given each image's class)" if params.num_classes(chain) else chain,
            *(_figure(figures.get(name, {}).get(ERROR)) for name in names),
            *(_figure(figures.get(name, {}).get(BITS)) for name in stated),
        )
        for chain, figures in found.items()
    ]
    header = ("chain", *(f"error, {name}" for name in names), *(f"bits/dim, {name}" for name in stated))
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
    return _row(name, {said: picture})


def _row(title: str, pictures: Mapping[str, Path]) -> str:
    """Lay out pictures side by side."""
    figures = "".join(
        f"<figure><figcaption>{escape(name)}</figcaption>{picture(_read(path), f'{title}: {name}')}</figure>\n"
        for name, path in pictures.items()
    )
    return f"<h3>{escape(title)}</h3>\n<section>\n{figures}</section>\n"


def _drawing(alt: str, path: Path) -> str:
    """Embed a figure, which becomes smaller on a narrow page."""
    drawn = picture(_read(path), alt, 'class="drawing" ')
    return f"<p>{drawn}</p>\n"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a picture: {error.strerror}") from error
