"""Real edits of the package: what maintenance leaves as it is, and what makes which stages train again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# One worker makes the digests of all edits, which take a while.
pytestmark = pytest.mark.xdist_group("recipe_edits")

ROOT = Path(__file__).parents[2]

Edit = tuple[str, str, str]
"""A module, what is there, and what takes its place; with nothing there, a new module or an end to it."""

PLUMBING: dict[str, Edit] = {
    "a message of the lock": ("training/lock.py", "waiting for another process that trains it now", "waiting"),
    "how long the lock waits": ("lock.py", "POLL_SECONDS = 5.0", "POLL_SECONDS = 1.0"),
    "how slices are sealed": ("data/seal.py", "CHUNK = ", "CHUNK = 2 * "),
    "how weights are saved": ("checkpoint.py", "sort_keys=True)", "sort_keys=True, indent=1)"),
    "how often the state is saved": ("training/trainer.py", "SAVE_SECONDS = 60", "SAVE_SECONDS = 300"),
    "what SIGTERM says": ("training/trainer.py", "stopped by SIGTERM and saved", "stopped, and saved"),
    "progress": ("training/trainer.py", "images_per_second']:.0f} images/s\"", "images_per_second']:.0f} a second\""),
    "rows of the history": ("training/trainer.py", "ROWS = 100", "ROWS = 50"),
    "a column of the history": ("training/history.py", '"learning_rate", "gradient_norm"', '"learning_rate", "norm"'),
    "the processes of a job": ("distributed.py", "def share(", "@torch.no_grad()\ndef share("),
    "a step form": ("layers/causal.py", "def vertical_row(", "@torch.no_grad()\ndef vertical_row("),
    "another step form": ("layers/transformer.py", "# Keys and values in one", "pass  # Keys and values in one"),
    "a step form's class": ("models/spn.py", "self._previous.zero_()", "self._previous.fill_(0)"),
    "an unused function": ("layers/residual.py", "", "\n\ndef unused(x: int) -> int:\n    return x\n"),
    "a family": ("models/toy.py", "", "from spn.models.spn import build\n\n__all__ = ['build']\n"),
    "a law": ("laws/toy.py", "", "from spn.laws.softmax import output_law\n\n__all__ = ['output_law']\n"),
    "a source": ("data/sources/toy.py", "", "from spn.data.sources.digits import open_digits as open_toy\n"),
    "its section": ("config/data.py", "", '\n\nclass ToyData(DigitsData):\n    source: Literal["toy"]\n'),
    "a page of the report": ("report/html_table.py", "", "\n\nPAGES = 2\n"),
    "an annotation": ("stages/cells.py", "position: Positions) -> Levels", "position: Tensor) -> Levels"),
    "a comment": ("training/step.py", "        section = self.section\n", "        section = self.section  # of it\n"),
    "a docstring": ("training/optimiser.py", '"""Build the optimiser', '"""Make the optimiser'),
    "MLflow": ("tracking/runs.py", "", "\n\nRUNS = 2\n"),
    "the command line": ("cli/main.py", "CPU threads; with 1", "threads of the CPU; with 1"),
}
"""Edits that leave the recipe of every training as it is."""

STACKS, SHIFTED = {"spn", "gated_pixelcnn"}, {"pixelcnn_pp", "pixelsnail"}
EMBEDDED = STACKS | SHIFTED
ALL = EMBEDDED | {"imagebart"}
SOFTMAX, MIXTURE = {"softmax"}, {"mixture", "dequantised"}

SCIENCE: dict[str, tuple[Edit, set[str], set[str]]] = {
    "the family": (
        ("models/spn.py", "self.transformer(tokens", "self.transformer(2 * tokens"),
        {"spn"},
        SOFTMAX | MIXTURE,
    ),
    "a layer that it shares with ImageBART": (
        ("layers/transformer.py", "0.02 * torch.randn(height", "0.03 * torch.randn(height"),
        {"spn", "imagebart"},
        SOFTMAX | MIXTURE,
    ),
    "a layer of two families": (
        ("layers/elementwise.py", "values.tanh()", "values.sigmoid()"),
        STACKS,
        SOFTMAX | MIXTURE,
    ),
    "ImageBART's embeddings": (
        ("models/imagebart.py", "SPREAD = 0.02", "SPREAD = 0.03"),
        {"imagebart"},
        SOFTMAX | MIXTURE,
    ),
    "attention of PixelSNAIL": (
        ("layers/strict_attention.py", "/ height - 0.5", "/ height"),
        {"pixelsnail"},
        SOFTMAX | MIXTURE,
    ),
    "shifted convolutions": (
        ("layers/shifted.py", "height - 1", "height"),
        SHIFTED,
        SOFTMAX | MIXTURE,
    ),
    "the slice embedder": (
        ("layers/slice_embedder.py", "self.position(position)", "0 * self.position(position)"),
        EMBEDDED,
        SOFTMAX | MIXTURE,
    ),
    "its dilations": (
        ("layers/slice_embedder.py", "DILATIONS = 7", "DILATIONS = 6"),
        EMBEDDED,
        SOFTMAX | MIXTURE,
    ),
    "the softmax": (
        ("laws/softmax.py", "self.num_outputs = num_levels", "self.num_outputs = num_levels + 1"),
        ALL,
        SOFTMAX,
    ),
    "the mixture": (("likelihood/mixture.py", "LEAST_LOG_SCALE = -7.0", "LEAST_LOG_SCALE = -6.0"), ALL, MIXTURE),
    "its noise": (
        ("likelihood/mixture.py", "torch.rand_like(full", "0.5 * torch.rand_like(full"),
        ALL,
        {"dequantised"},
    ),
    "the joint mixture": (("likelihood/joint_mixture.py", "torch.tanh(", "torch.sin("), ALL, MIXTURE),
    "the stage": (("stages/cells.py", "levels & self.plan.own_mask", "levels"), ALL, SOFTMAX | MIXTURE),
    "the windows": (
        ("image/window.py", "def gather_window(", "@torch.no_grad()\ndef gather_window("),
        ALL,
        SOFTMAX | MIXTURE,
    ),
    "the batches": (("training/batches.py", "first = step * batch_size", "first = step"), ALL, SOFTMAX | MIXTURE),
    "the seeds": (("seeds.py", '"/".join', '"-".join'), ALL, SOFTMAX | MIXTURE),
    "the step": (("training/step.py", "self.optimiser.step()", "self.optimiser.step(None)"), ALL, SOFTMAX | MIXTURE),
    "the optimiser": (("training/optimiser.py", "peak * 0.5 *", "peak * 0.4 *"), ALL, SOFTMAX | MIXTURE),
    "averaging": (
        ("training/ema.py", "(1 + step) / (10 + step)", "(1 + step) / (9 + step)"),
        ALL,
        SOFTMAX | MIXTURE,
    ),
    "initialisation": (("layers/weight_norm.py", "SPREAD = 0.05", "SPREAD = 0.1"), ALL, SOFTMAX | MIXTURE),
}
"""Edits that make stages train again: of which families, and with which laws."""

TUNING: dict[str, Edit] = {
    "the choice": ("training/trials.py", "estimates[trial])", "-estimates[trial])"),
    "validation": ("training/validation.py", "collect(parts)).mean()", "collect(parts)).median()"),
    "its slices": ("training/validation.py", '"validation"))', '"validating"))'),
}
"""Edits that only make stages with trials train again."""

TUNED, SCALE, ORDERED = "with trials", "a scale", "an order"
"""Stand for a stage with trials, a scale of a diffusion, and a stage with an order of slices, all of family spn and law
softmax."""
FIRST_STAGE = "a first stage"

SCIENCE_OF_CODES: dict[str, tuple[Edit, set[str]]] = {
    "the noise": (("diffusion.py", "decisions < kept", "decisions <= kept"), {SCALE}),
    "the bound": (("stages/scale.py", "law.expected_log_prob", "2 * law.expected_log_prob"), {SCALE}),
    "the quantiser": (("first_stages/quantiser.py", ".argmin(-1)", ".argmax(-1)"), {FIRST_STAGE}),
    "the loss of a first stage": (("stages/reconstruction.py", "self.progress)", "1.0)"), {FIRST_STAGE}),
    "an order": (("stages/ordered.py", "known | own", "own | known"), {ORDERED}),
    "the spacing": (("first_stages/spacing.py", "num_steps + 1", "num_steps + 2"), set()),
}
"""Edits that make scales, stages with an order or first stages train again. (A stage of codes has the spacing as a root
of its own.)"""

OF_FIRST_STAGES = {"the stage", "the windows", "the batches", "the seeds", "the step", "the optimiser", "averaging"}
"""Edits of `SCIENCE` that make first stages train again too."""

DIGESTS = """
import itertools, json, sys
from functools import cache
from pathlib import Path
from spn.provenance import code
from spn.provenance.recipes import CODE

assert Path.cwd() in code.ROOT.parents, "only the copy is edited"
code.loaded_source = lambda name: None  # as they lie on the disk, which is edited here
code._mentioned = cache(code._mentioned)  # the same in all digests between two edits
kinds = list(itertools.product(*json.loads(sys.argv[1])))

def digests():
    code.code_digest.cache_clear()
    code._mentioned.cache_clear()
    def train(**chosen):
        return code.code_digest(*CODE["train"], **chosen)

    found = {f"{family}/{law}": train(kind="cells", family=family, law=law) for family, law in kinds}
    found |= {"a scale": train(kind="scale", family="spn", law="softmax")}
    found |= {"an order": train(kind="ordered", family="spn", law="softmax")}
    found |= {"a first stage": train(kind="reconstruction")}
    return found | {"with trials": code.code_digest(*CODE["tune"], kind="cells", family="spn", law="softmax")}

before = digests()
for name, old, new in json.loads(sys.argv[2]):
    path = code.ROOT / name
    text = path.read_text() if path.exists() else None
    assert not old or old in text, f"{name}: {old}"
    path.write_text(text.replace(old, new, 1) if old else (text or "") + new)
    after = digests()
    path.unlink() if text is None else path.write_text(text)
    print(json.dumps([kind for kind in before if before[kind] != after[kind]]))
"""


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Which stages, by family/law, each edit makes train again."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "spn", folder / "spn", ignore=shutil.ignore_patterns("__pycache__"))
    edits = PLUMBING | TUNING | {name: edit for name, (edit, _, _) in SCIENCE.items()}
    edits |= {name: edit for name, (edit, _) in SCIENCE_OF_CODES.items()}
    kinds = json.dumps([sorted(ALL), sorted(SOFTMAX | MIXTURE)])
    command = [sys.executable, "-c", DIGESTS, kinds, json.dumps(list(edits.values()))]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    # In its folder: Python looks there before it looks anywhere else.
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(edits, map(set, map(json.loads, done.stdout.splitlines())), strict=True))


@pytest.mark.parametrize("edit", PLUMBING)
def test_maintenance_leaves_every_recipe_as_it_is(changed: dict[str, set[str]], edit: str) -> None:
    assert changed[edit] == set()


@pytest.mark.parametrize("edit", SCIENCE)
def test_science_makes_just_its_own_stages_train_again(changed: dict[str, set[str]], edit: str) -> None:
    _, families, laws = SCIENCE[edit]
    expected = {f"{family}/{law}" for family in families for law in laws}
    expected |= {SCALE, ORDERED} if "spn/softmax" in expected else set()
    expected |= {FIRST_STAGE} if edit in OF_FIRST_STAGES else set()
    assert changed[edit] == expected | ({TUNED} if "spn/softmax" in expected else set())


@pytest.mark.parametrize("edit", TUNING)
def test_what_chooses_among_trials_makes_just_tuned_stages_train_again(changed: dict[str, set[str]], edit: str) -> None:
    assert changed[edit] == {TUNED}


@pytest.mark.parametrize("edit", SCIENCE_OF_CODES)
def test_science_of_other_kinds_makes_just_these_train_again(changed: dict[str, set[str]], edit: str) -> None:
    assert changed[edit] == SCIENCE_OF_CODES[edit][1]
