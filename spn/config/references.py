"""Checks of references between the sections of params.yaml, and that every chain is a tiling."""

from typing import TYPE_CHECKING

from spn.config.counts import check_counts
from spn.config.diffusion import DiffusionSection
from spn.config.errors import InputError
from spn.config.mistakes import did_you_mean
from spn.config.tiling import StagePlan

if TYPE_CHECKING:
    from spn.config.params import ChainSection, Params


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
    num_classes = params.data.num_classes
    conditional = [name for name, stage in params.stages.items() if stage.class_conditional]
    if conditional and not num_classes:
        can_state = "num_classes" in type(params.data).model_fields
        needs = "data.num_classes to be stated" if can_state else f"labels, which source {params.data.source} lacks"
        raise InputError(f"stages.{conditional[0]}.class_conditional: expected {needs}, got no classes")
    if (asked := params.sampling.class_) is None:
        return
    if not conditional:
        raise InputError(f"sampling.class: expected a stage that is class_conditional, got none for class {asked}")
    if asked >= num_classes:
        raise InputError(f"sampling.class: expected one of the classes 0 to {num_classes - 1}, got {asked}")


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
