"""Checks that stages and chains are likelihoods."""

from collections.abc import Iterator, Sequence

from spn.config import Params
from spn.evaluation.chain_check import check_chain
from spn.evaluation.check import check_stage
from spn.pipeline.names import check_trained


def check(params: Params, stage: Sequence[str] = ()) -> Iterator[str]:
    """Check stages for leaks (autograd), and stages and chains for probabilities that sum to one (tiny grids).

    Of diffusions, the bound too is checked (all draws enumerated). Checks all stages and chains if no names are given.
    Yields a line for each; raises InputError at the first failure.
    """
    for name in stage or tuple(params.trained_plans):
        check_trained(params, name)
        if name in params.first_stages:
            yield f"{name}: a first stage, which is no likelihood: nothing to check"
            continue
        yield check_stage(params.stage_plans[name], params.grid(name).shape, params.stages[name].model, params.seed)
    models = {name: section.model for name, section in params.stages.items()}
    for chain, plans in {} if stage else params.plans.items():
        yield check_chain(chain, plans, params.grid(plans[0].name).shape[-1], models, params.seed)
