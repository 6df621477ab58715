"""The state from which a killed training resumes: one file, written by renaming."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from spn.checkpoint import load_tensors, save_tensors
from spn.notes import Notes
from spn.provenance import Recipe, check_recipe
from spn.training.ema import EmaModel
from spn.training.finite import Pending
from spn.training.history import Row

Write: TypeAlias = Callable[[Path, dict[str, Tensor], Notes], None]


@dataclass
class TrainingState:
    """Weights, their EMA, the optimiser and the history after `step` steps, which took `seconds` of training.

    `pending` has an entry for every step since the last row of the history.
    """

    recipe: Recipe
    model: nn.Module
    average: EmaModel
    optimiser: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    history: list[Row] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)

    def save(self, path: Path, write: Write = save_tensors) -> None:
        """Write the whole state to `path`."""
        tensors = {f"model.{name}": weight for name, weight in self.model.state_dict().items()}
        tensors |= {f"average.{name}": weight for name, weight in self.average.model.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
        if self.pending:
            tensors["pending"] = torch.stack([torch.stack(step) for step in self.pending])
        notes = {"recipe": self.recipe, "step": self.step, "seconds": self.seconds, "history": [*self.history]}
        write(path, tensors, notes)

    def restore(self, path: Path) -> None:
        """Load a state that `save` wrote for the same recipe."""
        tensors, notes = load_tensors(path)
        check_recipe(path, self.recipe, notes.get("recipe"))
        self.model.load_state_dict(_under("model", tensors))
        self.average.model.load_state_dict(_under("average", tensors))
        optimiser = self.optimiser.state_dict()
        optimiser["state"] = _optimiser_state(_under("optimiser", tensors))
        self.optimiser.load_state_dict(optimiser)
        self.step, self.seconds, self.history = notes["step"], notes["seconds"], notes["history"]
        if "pending" in tensors:
            pending = tensors["pending"].to(next(self.model.parameters()).device)
            self.pending = [(loss, norm, culprit) for loss, norm, culprit in pending]


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def _optimiser_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return state
