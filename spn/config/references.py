"""Checks of references between the sections of params.yaml, and that every chain is a tiling."""

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from spn.config.counts import check_counts
from spn.config.diffusion import DiffusionSection
from spn.config.errors import InputError
from spn.config.mistakes import did_you_mean
from spn.config.tiling import Order, StagePlan, ordered_slices

if TYPE_CHECKING:
    from spn.config.params import ChainSection, Params, StageSection


def check_references(params: "Params") -> None:
    """Check references between sections, and that every chain is a tiling."""
    check_counts(params.data)
    for name, first in params.first_stages.items():
        if name in params.stages:
            raise InputError(f"first_stages.{name}: expected another name than those of stages, got {name}")
        if problem := first.problem(*params.data.shape[:2]):
            raise InputError(f"first_stages.{name}.{problem}")
    for name, stage in params.stages.items():
        if stage.codes is not None and stage.codes not in params.first_stages:
            raise InputError(
                f"stages.{name}.codes: expected a key of first_stages "
                f"({', '.join(params.first_stages) or 'there are none'}), got {stage.codes}"
                f"{did_you_mean(stage.codes, params.first_stages)}"
            )
        (height, width, channels), bits = params.grid(name)
        if height % stage.scale_factor or width % stage.scale_factor:
            raise InputError(
                f"stages.{name}.scale_factor: expected a divisor of the image size {height}x{width}, "
                f"got {stage.scale_factor}"
            )
        if stage.bits[1] > bits:
            of = f"the {bits} bits of {stage.codes}'s codes" if stage.codes else f"data.bits = {bits}"
            raise InputError(f"stages.{name}.bits: expected an end of at most {of}, got {stage.bits[1]}")
        if problem := stage.model.problem(height // stage.scale_factor, width // stage.scale_factor, channels):
            raise InputError(f"stages.{name}.model.{problem}")
        _check_order(name, stage.order, stage.scale_factor)
        _check_scale(params, name, stage.diffusion)
    _check_classes(params)
    for name, chain in params.chains.items():
        for stage_name in chain.stages:
            if stage_name not in params.stages:
                known = ", ".join(params.stages)
                raise InputError(
                    f"chains.{name}.stages: expected a key of stages ({known}), got {stage_name}"
                    f"{did_you_mean(stage_name, params.stages)}"
                )
        _check_codes(params, name, chain)
        _check_views(params, name, chain)
        _check_schedules(params, name, chain)
        _check_caption(params, name, chain)
        if len(set(chain.stages)) < len(chain.stages):
            raise InputError(f"chains.{name}.stages: expected each stage once, got {', '.join(chain.stages)}")
        for key, stage_name in [
            *(("temperature", each) for each in chain.temperature),
            *(("top_k", each) for each in chain.top_k),
        ]:
            if stage_name not in chain.stages:
                raise InputError(
                    f"chains.{name}.{key}: expected stages of the chain, got {stage_name}"
                    f"{did_you_mean(stage_name, chain.stages)}"
                )
    _check_shared_stages(params)


def _check_order(stage: str, order: Order, scale_factor: int) -> None:
    """Check that an order has every slice once, (0, 0) first."""
    if isinstance(order, str):
        return
    every, got = ordered_slices("raster", scale_factor), str([list(each) for each in order])[:100]
    if sorted(order) != list(every):
        raise InputError(
            f"stages.{stage}.order: expected each of the {len(every)} slices of scale_factor {scale_factor} once, got "
            f"{got}"
        )
    if order[0] != (0, 0):
        raise InputError(
            f"stages.{stage}.order: expected [0, 0] first, which slices: first and upscaling rely on, got {got}"
        )


def _check_schedules(params: "Params", name: str, chain: "ChainSection") -> None:
    """Check that scales that follow each other are of one schedule; spaced ones are measured after training begins."""
    for before, stage in pairwise(chain.stages):
        one, two = params.stages[before].diffusion, params.stages[stage].diffusion
        if one and two and one.scale > 1 and one.schedule != two.schedule:
            raise InputError(
                f"chains.{name}.stages: expected scale {one.scale - 1} of schedule {one.schedule} after {before}, got "
                f"{stage} of {two.schedule}"
            )


def _check_views(params: "Params", name: str, chain: "ChainSection") -> None:
    """Check that a mixture of orders has several, over images that have them, of a chain that is exact."""
    views, key = chain.views, f"chains.{name}.views"
    if not views:
        return
    if len(set(views)) < len(views) or len(views) == 1:
        raise InputError(f"{key}: expected at least two views, each once, or none, got {', '.join(views)}")
    height, width, _ = params.data.shape
    if "transpose" in views and height != width:
        raise InputError(f"{key}: expected square images to transpose, got {height}x{width}")
    for stage in chain.stages:
        section = params.stages[stage]
        if section.codes is not None or section.diffusion is not None or section.model.is_bound:
            raise InputError(f"{key}: expected stages of pixels with exact likelihoods, got {stage}")
    if params.export.weights != "float32":
        raise InputError(f"export.weights: expected float32 with {key}, got {params.export.weights}")


def _check_codes(params: "Params", name: str, chain: "ChainSection") -> None:
    """Check that the stages of a chain generate the same: pixels, or the codes of one first stage."""
    found = {stage: params.stages[stage].codes for stage in chain.stages}
    first, other = chain.stages[0], next((each for each in found if found[each] != found[chain.stages[0]]), None)
    if other is not None:
        one, two = (f"codes of {codes}" if (codes := found[each]) else "pixels" for each in (first, other))
        raise InputError(f"chains.{name}.stages: expected stages of {one}, like {first}, got {two} in {other}")


def _check_scale(params: "Params", stage: str, diffusion: DiffusionSection | None) -> None:
    """Check that a scale of a diffusion is one of its schedule."""
    if diffusion is None:
        return
    if (schedule := params.schedules.get(diffusion.schedule)) is None:
        raise InputError(
            f"stages.{stage}.diffusion.schedule: expected a key of schedules "
            f"({', '.join(params.schedules) or 'there are none'}), got {diffusion.schedule}"
            f"{did_you_mean(diffusion.schedule, params.schedules)}"
        )
    if schedule.name == "spaced" and params.stages[stage].codes is None:
        raise InputError(
            f"schedules.{diffusion.schedule}.name: expected geometric, which is the spaced schedule of pixels as in "
            f"stages.{stage}, got spaced"
        )
    if diffusion.scale > schedule.scales:
        raise InputError(
            f"stages.{stage}.diffusion.scale: expected one of the {schedule.scales} scales of {diffusion.schedule}, "
            f"got {diffusion.scale}"
        )


def _check_classes(params: "Params") -> None:
    """Check that there are classes if a stage is class-conditional or `sampling.class` names one."""
    data, num_classes = params.data, params.data.num_classes
    if data.class_names and len(data.class_names) != num_classes:
        raise InputError(
            f"data.class_names: expected as many as data.num_classes = {num_classes}, got {len(data.class_names)}"
        )
    counts = Counter(captions := params.captions.of_classes)
    if same := [name for name, words in zip(data.class_names, captions, strict=True) if counts[words] > 1]:
        raise InputError(f"data.class_names: expected names of different words, got {', '.join(same)}")
    conditional = {name: stage for name, stage in params.stages.items() if stage.conditioning != "none"}
    for name, stage in conditional.items():
        _check_labels(params, name, stage)
    asked, caption = params.sampling.class_, params.sampling.caption
    if asked is not None and caption is not None:
        raise InputError(f"sampling.caption: expected a class or a caption, got both {asked} and {caption}")
    if asked is not None and not conditional:
        raise InputError(f"sampling.class: expected a stage that is class_conditional, got none for class {asked}")
    if asked is not None and asked >= num_classes:
        raise InputError(f"sampling.class: expected one of the classes 0 to {num_classes - 1}, got {asked}")
    if caption is not None and not conditional:
        raise InputError(f"sampling.caption: expected a stage that is captioned, got none for {caption}")


def _check_caption(params: "Params", name: str, chain: "ChainSection") -> None:
    """Check that the images of a chain can have the caption asked for."""
    if params.sampling.caption is not None and any(params.stages[each].conditioning != "none" for each in chain.stages):
        try:
            params.label_of(name, params.sampling.caption)
        except InputError as error:
            raise InputError(f"sampling.caption: {error}") from error


def _check_labels(params: "Params", name: str, stage: "StageSection") -> None:
    """Check that there is what a stage is conditioned on, and that its family can be."""
    data = params.data
    if not data.num_classes:
        can_state = "num_classes" in type(data).model_fields
        needs = "data.num_classes to be stated" if can_state else f"labels, which source {data.source} lacks"
        key = "captioned" if stage.captioned else "class_conditional"
        raise InputError(f"stages.{name}.{key}: expected {needs}, got no classes")
    if stage.captioned and not data.class_names:
        raise InputError(f"stages.{name}.captioned: expected data.class_names to be stated, got no names")
    if stage.captioned and not stage.model.reads_captions:
        raise InputError(
            f"stages.{name}.captioned: expected family imagebart, which reads words, got {stage.model.family}"
        )


def _check_shared_stages(params: "Params") -> None:
    seen: dict[str, tuple[str, StagePlan]] = {}
    for chain, plans in params.plans.items():
        for plan in plans:
            other, same = seen.setdefault(plan.name, (chain, plan))
            if same != plan:
                raise InputError(
                    f"chains.{chain}.stages: {plan.name} follows other cells here than in chains.{other}; "
                    "a stage is trained once, so give it a name of its own here"
                )
