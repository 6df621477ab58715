"""What a verb tells of its work while it runs: to MLflow, and in the log."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spn.config import Params

if TYPE_CHECKING:
    import torch

    from spn.provenance import Recipe
    from spn.training.history import Row


@contextmanager
def observing(
    params: Params, recipe: "Recipe", experiment: Path, checkpoint: Path
) -> "Iterator[Callable[[Row], None]]":
    """Record a training in MLflow, in the first of its processes."""
    from spn.distributed import is_first

    if not is_first():
        yield lambda row: None
        return
    from spn import tracking
    from spn.models import num_parameters
    from spn.stages import Stage

    stage = recipe["stage"]
    signature = Stage(params.stage_plans[stage], params.data.shape).signature
    count = num_parameters(params.stages[stage].model, signature)
    store = tracking.open_experiment(experiment, params.data.name)
    with tracking.StageRun(store, stage, recipe, num_parameters=count, checkpoint=checkpoint) as run:
        yield run.measured


def tell(stage: str, place: "torch.device", products: str) -> None:
    """Say in the log where the work is done."""
    from spn.distributed import num_processes, rank

    which = f" (process {rank() + 1} of {num_processes()})" if num_processes() > 1 else ""
    print(f"{stage} on {place}{which}: {products}", file=sys.stderr)
