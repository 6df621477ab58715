"""Looks up stages and chains by name; a wrong name is an InputError."""

from spn.config import InputError, Params


def check_stage(params: Params, stage: str, chain: str | None = None) -> None:
    """Raise InputError unless `chain` uses the stage, or any chain if none is given."""
    if stage not in params.stage_plans:
        known = ", ".join(params.stage_plans)
        raise InputError(f"stage: expected one that a chain uses ({known}), got {stage}")
    if chain is not None and stage not in (stages := stages_of(params, chain)):
        raise InputError(f"stage: expected one of chain {chain} ({', '.join(stages)}), got {stage}")


def check_trained(params: Params, name: str) -> None:
    """Raise InputError unless a chain needs a network of this name, a stage or a first stage."""
    if name not in params.trained_plans:
        raise InputError(f"stage: expected one that a chain uses ({', '.join(params.trained_plans)}), got {name}")


def check_first_stage(params: Params, name: str) -> None:
    """Raise InputError unless a chain uses the codes of this first stage."""
    if name not in params.first_stage_plans:
        known = ", ".join(params.first_stage_plans) or "there are none"
        raise InputError(f"first stage: expected one whose codes a chain uses ({known}), got {name}")


def check_orders(params: Params, chain: str, is_mixture: bool) -> None:
    """Raise InputError unless a chain is a mixture of orders, or, if `is_mixture` is false, a chain of one order."""
    if bool(views := params.chains[chain].views) != is_mixture:
        expected = "the views of a mixture of orders" if is_mixture else "none for a sum of stages"
        raise InputError(f"chains.{chain}.views: expected {expected}, got {', '.join(views) or 'none'}")


def stages_of(params: Params, chain: str) -> tuple[str, ...]:
    """List the stages of a chain, in order; raise InputError if there is no such chain."""
    if chain not in params.chains:
        raise InputError(f"chain: expected one of {', '.join(params.chains)}, got {chain}")
    return params.chains[chain].stages
