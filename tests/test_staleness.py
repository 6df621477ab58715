"""What makes a result stale: every leaf of the parameters, one by one, and every module of the package.

Two tables say which jobs run again. What is in neither fails, and so does a row that nothing needs.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from perturbed import ROOT, bases, jobs_of, leaves, validated, with_another

from spn.config import Params
from spn.config.section import Section

FAMILIES = ("spn", "gated_pixelcnn", "pixelcnn_pp", "pixelsnail")

Scope = Callable[[Params, list[str]], set[str]]
"""Names the jobs that run again, given parameters and the parts of the key that was changed."""


def everything(params: Params, key: list[str]) -> set[str]:
    return set(jobs_of(params))


def after_preprocessing(params: Params, key: list[str]) -> set[str]:
    return everything(params, key) - {"preprocess"}


def after_stage(params: Params, key: list[str]) -> set[str]:
    """The training of a stage, and what depends on it."""
    stage, jobs = key[1], {"report"}
    if stage in params.stage_plans:
        jobs |= {f"train/{stage}", f"evaluate/{stage}"}
    for name, chain in params.chains.items():
        if stage in chain.stages:
            later = chain.stages[chain.stages.index(stage) :]
            jobs |= {f"sample/{name}/{each}" for each in later} | {f"summarise/{name}", f"record/{name}"}
    return jobs


def with_slices(params: Params, key: list[str]) -> set[str]:
    """What a stage generates is what the others of its chain do not, and decides which data are read."""
    stages = {stage for chain in params.chains.values() if key[1] in chain.stages for stage in chain.stages}
    return {"preprocess"}.union(*(after_stage(params, ["stages", stage]) for stage in stages))


def of_class(params: Params, key: list[str]) -> set[str]:
    """Samples have classes from the first stage on, whichever is told of them."""
    if not params.data.num_classes:
        return set()
    others = {name for name, stage in params.stages.items() if stage.class_conditional} - {key[1]}
    chains = [name for name, chain in params.chains.items() if key[1] in chain.stages and not others & {*chain.stages}]
    return after_stage(params, key) | of_sampling(params, chains)


def of_sampling(params: Params, chains: list[str]) -> set[str]:
    """The samples of some chains, and what is recorded and shown of them."""
    samples = {f"sample/{name}/{stage}" for name in chains for stage in params.chains[name].stages}
    return samples | {f"record/{name}" for name in chains} | ({"report"} if chains else set())


def all_samples(params: Params, key: list[str]) -> set[str]:
    return of_sampling(params, list(params.chains))


def told_samples(params: Params, key: list[str]) -> set[str]:
    return of_sampling(params, [name for name in params.chains if params.num_classes(name)])


def after_sampling(params: Params, key: list[str]) -> set[str]:
    """The samples of a chain from a stage on: `chains.CHAIN.temperature.STAGE`."""
    stages = params.chains[key[1]].stages
    samples = {f"sample/{key[1]}/{stage}" for stage in stages[stages.index(key[3]) :]}
    return samples | {f"record/{key[1]}", "report"}


def of_chain(params: Params, key: list[str]) -> set[str]:
    """What another order of a chain's stages changes: all of them, since each is given others."""
    return {"report"}.union(*(after_stage(params, ["stages", stage]) for stage in params.chains[key[1]].stages))


def of_classes(params: Params, key: list[str]) -> set[str]:
    """Other classes: labels in the data, and the stages that are told of them."""
    told = [name for name, stage in params.stages.items() if stage.class_conditional]
    return told_samples(params, key).union(
        {"preprocess", "report"}, *(after_stage(params, ["stages", stage]) for stage in told)
    )


LEAVES: dict[str, Scope] = {
    "seed": after_preprocessing,
    "data.num_classes": of_classes,
    **dict.fromkeys(("data.source", "data.name", "data.bits", "data.split_seed", "data.limit.*"), everything),
    **dict.fromkeys(("data.validation", "data.test", "data.size", "data.stride", "data.channels"), everything),
    **dict.fromkeys(("data.fit", "data.filter", "data.unreadable", "data.release", "data.first_label"), everything),
    "stages.*.scale_factor": with_slices,
    "stages.*.bits": with_slices,
    "stages.*.slices": after_stage,  # where S = 1, the first slice is all of them
    "stages.*.class_conditional": of_class,
    "stages.*.model.*": after_stage,
    "stages.*.training.*": after_stage,
    "chains.*.stages": of_chain,
    "chains.*.temperature.*": after_sampling,
    "sampling.num_images": all_samples,
    "sampling.seed": all_samples,
    "sampling.class": told_samples,
}
"""Which jobs run again where a leaf changes, by the first pattern that fits."""

EXEMPT = {
    "data.source_digest": "says which source is refused, and changes no image; the audit compares it by itself",
}
"""Leaves that no recipe has, and why."""

BOUND = ("stages.*.scale_factor", "stages.*.bits", "stages.*.slices", "data.bits", "data.source", "chains.*.stages")
"""Leaves that cannot be changed by themselves in every file: what a stage generates, the others must not."""

FIXED = {"DigitsData.bits"}
"""Fields of one value."""


def test_every_leaf_makes_stale_just_what_it_decides() -> None:
    wrong, used, changed, met = [], set(), set(), set()
    for name, params in bases().items():
        before, seen = jobs_of(params), dict[tuple[str, str], int]()
        for key, field, value in leaves(params):
            parts = key.split(".")
            met.add(field)
            pattern = next((each for each in (*EXEMPT, *LEAVES) if fnmatchcase(key, each)), None)
            assert pattern, f"{key} in {name}: in no table, so nobody has said what it makes stale"
            kind = (field, parts[2] if parts[0] == "chains" else "")
            seen[kind] = seen.get(kind, 0) + 1
            if seen[kind] > (2 if name == "params" else 1):  # the stages of a file are all alike
                continue
            try:
                after = validated(with_another(params, key, value))
            except ValueError:
                assert any(fnmatchcase(key, each) for each in BOUND), f"{key} in {name}: give it a value in OTHERS"
                continue
            used.add(pattern)
            changed.add(field)
            now = jobs_of(after)
            found = {job for job in before | now if before.get(job) != now.get(job)}
            expected = set() if pattern in EXEMPT else LEAVES[pattern](params, parts) | LEAVES[pattern](after, parts)
            if found != expected:
                wrong.append(f"{name}, {key}: too many {found - expected}, too few {expected - found}")
    assert not wrong, "\n".join(wrong)
    assert used == EXEMPT.keys() | LEAVES.keys()
    assert changed == met - FIXED
    assert fields_of(Section) <= met | {"Params.data", "Params.stages", "Params.chains", "Params.sampling"} | {
        f"{each}.limit" for each in ("DigitsData", "PhotosData", "Cifar10Data", "MnistData", "FolderData", "ArraysData")
    } | {"StageSection.model", "StageSection.training", "TrainingSection.optimiser"}


def fields_of(section: type[Section]) -> set[str]:
    """Name the fields of all kinds of sections that a file can have."""
    kinds = section.__subclasses__()
    if kinds:
        return set().union(*map(fields_of, kinds))
    return {f"{section.__name__}.{name}" for name in section.model_fields}


STAGE_VERBS = "train evaluate sample"
MODULES: dict[str, str] = {
    "checkpoint.py": STAGE_VERBS,
    "cli/results.py": "record report",
    "config/data.py": "preprocess",  # where the sources' formats and shapes are decided
    "data/preprocess.py": "preprocess",
    "data/sources/*.py": "preprocess",
    "data/resident.py": "train evaluate summarise",
    "data/*.py": f"preprocess {STAGE_VERBS} summarise report",
    "distributed.py": f"{STAGE_VERBS} summarise",
    "evaluation/__init__.py": "evaluate summarise record report",
    "evaluation/evaluate.py": "evaluate summarise",
    "evaluation/speed.py": "record report",
    "generation/*.py": "sample",
    "image/*.py": f"preprocess {STAGE_VERBS} summarise report",
    "layers/*.py": f"{STAGE_VERBS} summarise",
    "likelihood/*.py": f"{STAGE_VERBS} summarise",
    "machine.py": "train evaluate",
    "models/__init__.py": f"{STAGE_VERBS} summarise",
    "models/interface.py": f"{STAGE_VERBS} summarise",
    "models/*.py": STAGE_VERBS,  # of the family of that name alone
    "report/__init__.py": "sample report",
    "report/pictures.py": "sample report",
    "report/*.py": "report",
    "stages.py": f"{STAGE_VERBS} summarise",
    "tracking/*.py": "record",
    "trained.py": "evaluate sample",
    "training/*.py": "train",
}
"""Which verbs make other results where a module changes, by the first pattern that fits."""

EXEMPT_MODULES = {
    "__init__.py": "starts what keeps sources",
    "__main__.py": "calls the command line",
    "cli/*.py": "reads options and hands them on; the functions of verbs that decide more are digested by themselves",
    "config/*.py": "what it decides is resolved into the recipes: defaults, tilings, temperatures, levels of white",
    "console/*.py": "shows what is going on, and writes nothing",
    "evaluation/*.py": "checks models, and writes nothing",
    "files.py": "how files are written",
    "image/order.py": "shows the order of generation, and is called by no verb",
    "loading.py": "how modules are loaded; what is loaded is digested",
    "notes.py": "how what is written in results is read",
    "planning/*.py": "forecasts, and writes nothing",
    "provenance/*.py": "writes the recipes: another one is another recipe by itself",
}
"""Modules that no digest has, and why."""

DIGESTS = """
import json, sys
from spn.provenance import code, recipes

def digests():
    code.code_digest.cache_clear()
    staged = {"train", "evaluate", "sample"}
    return {
        f"{verb}/{family}" if verb in staged else verb: recipes.verb_digest(verb, family if verb in staged else None)
        for verb in recipes.CODE for family in (FAMILIES if verb in staged else [None])
    }

code.loaded_source = lambda name: None  # as they lie on the disk, which is edited here: the configuration is loaded
FAMILIES = json.loads(sys.argv[1])
before, edits = digests(), json.loads(sys.argv[2])
for name, old, new in edits or [[str(path.relative_to(code.ROOT)), "", ""] for path in sorted(code.ROOT.rglob("*.py"))]:
    path = code.ROOT / name
    text = path.read_text()
    path.write_text(text.replace(old, new, 1) if old else text + "\\nCHANGED = True\\n")
    after = digests()
    path.write_text(text)
    print(json.dumps([name, [verb for verb in before if before[verb] != after[verb]]]))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "spn", folder / "spn", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def changed_digests(package: Path, *edits: tuple[str, str, str]) -> list[tuple[str, set[str]]]:
    """Edit modules one after the other, or append a line to each of all; give the verbs with other digests then."""
    command = [sys.executable, "-c", DIGESTS, json.dumps(FAMILIES), json.dumps(edits)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(package)}, text=True, capture_output=True, check=True
    )
    return [(name, set(verbs)) for name, verbs in map(json.loads, done.stdout.splitlines())]


def with_families(verbs: str, families: tuple[str, ...] = FAMILIES) -> set[str]:
    staged = {f"{verb}/{family}" for verb in STAGE_VERBS.split() for family in families}
    return {each for each in staged | set(verbs.split()) if each.partition("/")[0] in verbs.split()} - set(
        STAGE_VERBS.split()
    )


def test_every_module_makes_stale_just_what_it_decides(package: Path) -> None:
    wrong, used = [], set()
    for name, found in changed_digests(package):
        exempt = [each for each in EXEMPT_MODULES if each.count("/") == name.count("/") and fnmatchcase(name, each)]
        pattern = next((each for each in MODULES if fnmatchcase(name, each)), None)
        if pattern is None or (exempt and exempt[0] == name):
            assert exempt, f"{name}: in no table, so nobody has said what it makes stale"
            pattern, expected = exempt[0], set[str]()
        elif Path(name).stem in FAMILIES:
            expected = with_families(MODULES[pattern], (Path(name).stem,))
        else:
            expected = with_families(MODULES[pattern])
        used.add(pattern)
        if found != expected:
            wrong.append(f"{name}: too many {sorted(found - expected)}, too few {sorted(expected - found)}")
    assert not wrong, "\n".join(wrong)
    assert used == MODULES.keys() | EXEMPT_MODULES.keys()


FUNCTIONS = {
    "evaluate": "evaluate",
    "sample": "sample",
    "summarise": "summarise",
    "record": "record",
    "_record_training": "record",
    "_check_samples": "",  # refuses, and writes nothing
    "report": "report",
    "preprocess": "",  # hands on what is in the recipe
    "train": "",  # the same
    "verify": "",  # writes nothing
}
"""Functions of cli/verbs.py, and the verb whose results each of them decides."""


def test_what_verbs_put_together_themselves_is_in_their_digests(package: Path) -> None:
    edits = [("cli/verbs.py", f"def {name}(", f"@str.title\ndef {name}(") for name in FUNCTIONS]
    found = [verbs for _, verbs in changed_digests(package, *edits)]
    assert dict(zip(FUNCTIONS, found, strict=True)) == {name: with_families(verb) for name, verb in FUNCTIONS.items()}


def test_comments_docstrings_and_layout_are_in_no_digest(package: Path) -> None:
    edits = [
        ("stages.py", '"""', '"""Otherwise put: '),
        ("training/optimiser.py", "import math\n", "import math  # a remark\n\n\n"),
        ("cli/verbs.py", '    """Compute a stage', '    """Work out a stage'),
    ]
    assert [verbs for _, verbs in changed_digests(package, *edits)] == [set()] * 3
