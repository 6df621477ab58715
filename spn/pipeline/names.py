"""Stages and chains by name; a wrong name is an InputError of one line."""

from spn.config import InputError, Params


def check_stage(params: Params, stage: str, chain: str | None = None) -> None:
    """Raise InputError unless a chain uses the stage, or this chain if one is named."""
    if stage not in params.stage_plans:
        known = ", ".join(params.stage_plans)
        raise InputError(f"stage: expected one that a chain uses ({known}), got {stage}")
    if chain is not None and stage not in (stages := stages_of(params, chain)):
        raise InputError(f"stage: expected one of chain {chain} ({', '.join(stages)}), got {stage}")


def stages_of(params: Params, chain: str) -> tuple[str, ...]:
    """Name the stages of a chain, in order; raise InputError if there is no such chain."""
    if chain not in params.chains:
        raise InputError(f"chain: expected one of {', '.join(params.chains)}, got {chain}")
    return params.chains[chain].stages
