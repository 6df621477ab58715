"""What a chain draws given a part of an image: hidden pixels, all slices but the first, or low bits.

The given part is forced wherever a stage would generate it, so it comes back bit for bit. A chain draws in its own
order: what is drawn is conditioned on what comes before it, and not on given pixels that come after (but see
`spn.generation.inpaint` for scales of a diffusion).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, cast

import numpy as np
import torch

from spn.api.arguments import Label, ScoreOptions, is_of_all, labels_of, positive, temperatures_of, whole_number
from spn.api.arrays import Array, Images, as_array, as_levels, like
from spn.api.filler import Filler, Hidden, repeat
from spn.config import InputError, StagePlan
from spn.config.tiling import bit_mask
from spn.generation.sample import SAMPLING_BATCH_SIZE
from spn.shapes import Labels

if TYPE_CHECKING:
    from spn.api.chain_model import ChainModel


class DrawOptions(TypedDict, total=False):
    """The options of `ChainModel.upscale`, `deepen` and `inpaint`; all but `draws` are those of `sample_stages`."""

    draws: int
    seed: int
    temperature: float | Mapping[str, float] | None
    label: Label | None
    batch_size: int
    exact: bool


@dataclass(frozen=True)
class Drawing:
    """How to draw: `DrawOptions` with their defaults."""

    draws: int = 1
    seed: int = 1
    temperature: float | Mapping[str, float] | None = None
    label: Label | None = None
    batch_size: int = SAMPLING_BATCH_SIZE
    exact: bool = False

    def filler(self, model: "ChainModel") -> Filler:
        """Return the chain that draws so."""
        positive("draws", self.draws)
        section = model.params.chains[model.chain]
        return Filler(
            model.stages,
            temperatures_of(section, self.temperature),
            section.top_k,
            model.first_stage,
            model.params.data.white_level // 2,
            whole_number("seed", self.seed),
            positive("batch_size", self.batch_size),
            self.exact,
        )

    def labels(self, model: "ChainModel", count: int, is_sampling: bool = False) -> Labels | None:
        """Return what each image is conditioned on; pictures of a person must be told."""
        return labels_of(model.params, model.chain, count, self.label, is_sampling)


class Likeliest(NamedTuple):
    """The likeliest of several completions of each image."""

    images: Any
    """uint8 [N, H, W, C]."""
    chosen: Any
    """The number of the draw that it is, int64 [N]."""
    nats: Any
    """-log p of all draws, float64 [draws, N]."""


def inpaint(model: "ChainModel", images: Array, hidden: Array, repeats: int, drawing: Drawing) -> Any:
    """Do what `ChainModel.inpaint` says."""
    check_one_order(model, "to inpaint with")
    levels = as_levels(images, model.shape, model.params.data.bits)
    return like(images, _fill(model, levels, _hidden(hidden, levels), repeats, drawing))


def upscale(model: "ChainModel", images: Array | None, num_images: int | None, drawing: Drawing) -> Any:
    """Do what `ChainModel.upscale` says."""
    size = scale_factor(model)
    if images is None:
        plans = _plans(model)
        first = next((number for number, plan in enumerate(plans) if plan.targets != ((0, 0),)), len(plans))
        if not first:
            raise InputError(
                f"chain {model.chain}: expected first stages that generate slice (0,0) alone, to sample them, got "
                f"{plans[0].name}, which generates all slices; give pictures"
            )
        return _from_samples(model, num_images, first, drawing)
    _check_alone(num_images)
    height, width, channels = model.shape
    small = as_levels(images, (height // size, width // size, channels), model.params.data.bits)
    levels = torch.zeros((len(small), *model.shape), dtype=torch.uint8)
    levels[:, ::size, ::size] = small
    hidden = torch.ones(levels.shape[:3], dtype=torch.bool)
    hidden[:, ::size, ::size] = False
    return like(images, _fill(model, levels, hidden, 1, drawing))


def deepen(model: "ChainModel", images: Array | None, num_images: int | None, drawing: Drawing) -> Any:
    """Do what `ChainModel.deepen` says."""
    high, first = high_bits(model)
    if images is None:
        return _from_samples(model, num_images, first, drawing)
    _check_alone(num_images)
    bits = model.params.data.bits
    levels = as_levels(images, model.shape, bits) & bit_mask((0, high), bits)
    return like(images, _go_on(model, levels, first, drawing.labels(model, len(levels)), drawing))


def likeliest(model: "ChainModel", drawn: Array, options: ScoreOptions) -> Likeliest:
    """Do what `ChainModel.likeliest` says."""
    check_exact(model)
    drawn = as_array(drawn)
    if drawn.ndim != 5 or not len(drawn):
        raise InputError(f"drawn: expected [draws, N, height, width, channels], got {list(drawn.shape)}")
    draws, count = drawn.shape[:2]
    label = options.get("label")
    if label is not None and not is_of_all(label):
        options = cast(ScoreOptions, options | {"label": list(cast(Sequence[Any], label)) * draws})
    nats = np.asarray(model.nats(drawn.reshape(-1, *drawn.shape[2:]), **options)).reshape(draws, count)
    chosen = nats.argmin(0)
    return Likeliest(drawn[chosen, np.arange(count)], like(drawn, chosen), like(drawn, nats))


def check_exact(model: "ChainModel") -> None:
    """Raise InputError unless the nats of a chain are exact, and those of pixels."""
    if model.is_bound or model.first_stage is not None:
        got = "upper bounds" if model.first_stage is None else f"those of codes of {model.params.codes(model.chain)}"
        raise InputError(f"chain {model.chain}: expected exact likelihoods of pixels, to compare draws, got {got}")


def can_upscale(model: "ChainModel") -> bool:
    """Tell whether a chain generates slice (0,0) of an image before the others."""
    first = _plans(model)[0]
    return model.first_stage is None and first.scale_factor > 1 and first.targets[0] == (0, 0)


def can_deepen(model: "ChainModel") -> bool:
    """Tell whether a chain generates some high bits of all pixels before low bits."""
    return model.first_stage is None and _first_of_low_bits(_plans(model)) is not None


def scale_factor(model: "ChainModel") -> int:
    """Return S, by which a chain upscales; raise InputError unless it generates slice (0,0) before the others."""
    _check_pixels(model)
    first = _plans(model)[0]
    if not can_upscale(model):
        which = "slices: rest" if first.targets[0] != (0, 0) else "scale_factor 1: it draws pixel by pixel"
        raise InputError(
            f"chain {model.chain}: expected a first stage of scale_factor 2 or more, which generates slice (0,0) "
            f"before the others, got {first.name} of {which}"
        )
    return first.scale_factor


def high_bits(model: "ChainModel") -> tuple[int, int]:
    """Return how many high bits the first stages of a chain generate, and the number of the first stage of low bits.

    Raises InputError unless, before some stage, all high bits of all pixels are generated, and nothing else.
    """
    _check_pixels(model)
    plans = _plans(model)
    number = _first_of_low_bits(plans)
    if number is not None:
        return plans[number].bits[0], number
    found = ", ".join(f"{plan.name} of bits {list(plan.bits)}" for plan in plans)
    raise InputError(
        f"chain {model.chain}: expected stages of the high bits of all slices, then of low bits, got {found}"
    )


def _first_of_low_bits(plans: Sequence[StagePlan]) -> int | None:
    """Find the first stage before which all high bits of all pixels are generated, and nothing else."""
    for number, plan in enumerate(plans):
        high = bit_mask((0, plan.bits[0]), plan.image_bits)
        is_after = all(mask == high for row in plan.known for mask in row)
        if high and is_after and all(before.bits[1] <= plan.bits[0] for before in plans[:number]):
            return number
    return None


def _plans(model: "ChainModel") -> Sequence[StagePlan]:
    return [stage.plan for stage, _ in model.stages.values()]


def _fill(model: "ChainModel", levels: Images, hidden: Hidden, repeats: int, drawing: Drawing) -> Any:
    positive("repeats", repeats)
    return drawing.filler(model).fill(levels, hidden, drawing.draws, repeats, drawing.labels(model, len(levels)))


def _from_samples(model: "ChainModel", num_images: int | None, first: int, drawing: Drawing) -> Any:
    """Sample the stages before number `first` once for each image, and go on from there."""
    if num_images is None:
        raise InputError("num_images: expected a number, or images, got neither")
    positive("num_images", num_images)
    # First, because it fails at once if so many images do not fit into memory.
    nothing = torch.zeros((num_images, *model.shape), dtype=torch.uint8)
    labels = drawing.labels(model, num_images, is_sampling=True)
    levels = drawing.filler(model).draw(list(model.stages)[:first], nothing, labels)
    return like(None, _go_on(model, levels, first, labels, drawing))


def _go_on(model: "ChainModel", levels: Images, first: int, labels: Labels | None, drawing: Drawing) -> Any:
    """Draw the stages from number `first` on, several times for each image; return [draws, N, H, W, C]."""
    filler, draws = drawing.filler(model), drawing.draws
    before = levels.repeat(draws, 1, 1, 1)
    return filler.draw(list(model.stages)[first:], before, repeat(labels, draws)).unflatten(0, (draws, -1))


def _hidden(hidden: Array, levels: Images) -> Hidden:
    """Check which pixels are hidden, of all images or of each: bool [H, W] or [N, H, W]."""
    mask, expected = torch.as_tensor(hidden), levels.shape[:3]
    if mask.dtype is not torch.bool or mask.shape not in (expected, expected[1:]):
        count, height, width = expected
        raise InputError(
            f"hidden: expected bool [{height}, {width}] or [{count}, {height}, {width}], got "
            f"{str(mask.dtype).removeprefix('torch.')} {list(mask.shape)}"
        )
    return mask.cpu().expand(expected)


def check_one_order(model: "ChainModel", what: str) -> None:
    """Raise InputError for a mixture of orders, whose law given a part of an image is none of a walk."""
    if model.views:
        raise InputError(f"chain {model.chain}: expected one order {what}, got a mixture of {len(model.views)} orders")


def _check_pixels(model: "ChainModel") -> None:
    check_one_order(model, "to draw a part of an image with")
    if model.first_stage is not None:
        codes = model.params.codes(model.chain)
        raise InputError(f"chain {model.chain}: expected a chain of pixels, got one of the codes of {codes}")


def _check_alone(num_images: int | None) -> None:
    if num_images is not None:
        raise InputError("num_images: expected none beside images, whose number it is")
