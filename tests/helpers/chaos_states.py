"""States of an experiment between which tests/helpers/chaos.py edits: of params.yaml, of the sources and of the code.

A state says of every knob at which of its positions it is. Setting a knob edits one thing, in place, as a user would.
"""

import copy
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from experiment import MODEL, TRAINING
from PIL import Image
from sklearn.datasets import load_digits
from workspace import Workspace

State = dict[str, int]

NAME, CHAIN, STAGES = "pictures", "depth", ("high", "low")
SOURCE = Path("sources", NAME)
NUM_PICTURES = 60
OLD = (1_000_000_000, 1_000_000_000)
"""The time that every picture has, changed or not, as after `rsync -t`: times must not count."""

MODEL_FILE, EVALUATION_FILE = Path("spn/models/spn.py"), Path("spn/evaluation/evaluate.py")
MARK = "\n# chaos\n"
LINES = (
    "",
    "_laws = SubscalePixelNetwork.laws\n"
    "SubscalePixelNetwork.laws = lambda self, embedded, *rest: _laws(self, 1.5 * embedded, *rest)\n",
)
COMMENTS = ("", "# No line of code.\n")

PARAMS: dict[str, tuple[Any, ...]] = {
    "seed": (1, 2),
    "stages.high.training.steps": (6, 7),
    "stages.low.training.optimiser.learning_rate": (0.01, 0.02),
    "chains.depth.temperature": ({"high": 1.0}, {"high": 0.5}),
    "sampling.seed": (1, 2),
}
"""What is edited in params.yaml, by dotted key."""

NUM_POSITIONS: State = {key: len(values) for key, values in PARAMS.items()}
NUM_POSITIONS |= {"pictures": 4, "model": len(LINES), "comment": len(COMMENTS), "evaluation": 2}

BASE: State = dict.fromkeys(NUM_POSITIONS, 0)
FINAL: tuple[State, ...] = (
    BASE,
    BASE | {"seed": 1, "stages.low.training.optimiser.learning_rate": 1, "pictures": 1, "comment": 1},
    BASE | {"chains.depth.temperature": 1, "sampling.seed": 1, "pictures": 3, "model": 1},
    BASE | {"stages.high.training.steps": 1, "pictures": 2, "evaluation": 1},
)
"""Where rounds may end; few, so that they share the undisturbed runs with which they are compared."""


def params_of(state: State) -> dict[str, Any]:
    """Return params.yaml of a state: a chain of two stages on a folder of small pictures."""
    data = {"source": "folder", "name": NAME, "bits": 2, "split_seed": 1, "size": 8, "channels": 1, "fit": "crop"}
    bits = {"high": [0, 1], "low": [1, 2]}
    params: dict[str, Any] = {
        "seed": 1,
        "data": data | {"filter": "box", "validation": 8, "test": 8},
        "stages": {
            stage: {"scale_factor": 2, "slices": "all", "bits": bits[stage], "model": {**MODEL}}
            | {"training": copy.deepcopy(TRAINING)}
            for stage in STAGES
        },
        "chains": {CHAIN: {"stages": list(STAGES)}},
        "sampling": {"num_images": 4, "seed": 1},
    }
    for key, values in PARAMS.items():
        *path, last = key.split(".")
        section = params
        for name in path:
            section = section[name]
        section[last] = values[state[key]]
    return params


def set_up(workspace: Workspace, state: State) -> None:
    """Write everything that a state is made of."""
    digits = load_digits().images[: NUM_PICTURES + 2]
    for place, digit in enumerate(digits[:NUM_PICTURES]):
        _draw(workspace.folder / SOURCE / ("more" if place % 3 else "") / f"{place}.png", digit)
    for knob in NUM_POSITIONS:
        turn(workspace, state, knob)


def turn(workspace: Workspace, state: State, knob: str) -> None:
    """Edit the one thing that a knob stands for; `state` has its new position."""
    edits: dict[str, Callable[[], None]] = {
        "pictures": lambda: _edit_pictures(workspace.folder / SOURCE, state["pictures"]),
        "model": lambda: _edit_model(workspace.folder / MODEL_FILE, state),
        "comment": lambda: _edit_model(workspace.folder / MODEL_FILE, state),
        "evaluation": lambda: _edit_evaluation(workspace.folder / EVALUATION_FILE, (128, 16)[state["evaluation"]]),
    }
    edits.get(knob, lambda: workspace.write_params(params_of(state)))()


def _edit_pictures(folder: Path, position: int) -> None:
    """Have all pictures as they were, one more, one less, or one changed in a sub-folder."""
    digits = load_digits().images
    added, first, deep = folder / "added.png", folder / "0.png", folder / "more" / "1.png"
    added.unlink(missing_ok=True)
    _draw(first, digits[0])
    _draw(deep, digits[NUM_PICTURES + 1 if position == 3 else 1])
    if position == 1:
        _draw(added, digits[NUM_PICTURES])
    elif position == 2:
        first.unlink()


def _draw(path: Path, digit: np.ndarray) -> None:
    """Write a picture without compression, so that all are of one size, under an old time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((digit * 15).astype(np.uint8)).save(path, compress_level=0)
    os.utime(path, OLD)


def _edit_model(path: Path, state: State) -> None:
    _replace(path, path.read_text().split(MARK)[0] + MARK + COMMENTS[state["comment"]] + LINES[state["model"]])


def _edit_evaluation(path: Path, batch_size: int) -> None:
    text, count = re.subn(
        r"^EVALUATION_BATCH_SIZE = \d+$", f"EVALUATION_BATCH_SIZE = {batch_size}", path.read_text(), flags=re.MULTILINE
    )
    assert count == 1
    _replace(path, text)


def _replace(path: Path, text: str) -> None:
    """Write a module by renaming, as editors do: a process that starts meanwhile imports the old one or the new one."""
    temporary = path.with_name("chaos.tmp")
    temporary.write_text(text)
    temporary.replace(path)
