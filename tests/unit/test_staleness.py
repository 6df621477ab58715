"""What makes a result stale: every leaf of the parameters, one by one, and every module of the package.

Two tables say which jobs run again. What is in neither fails, and so does a row that nothing needs.
"""

import ast
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import get_args

import pytest
from perturbed import bases, jobs_of, leaves, validated, with_another, with_its_chains

from spn.config import Params
from spn.config.data import SourceSection
from spn.config.section import Section
from spn.config.tiling import StageKind
from spn.provenance import code, recipes

FAMILIES = ("spn", "gated_pixelcnn", "pixelcnn_pp", "pixelsnail", "imagebart")

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
            jobs |= {f"sample_stage/{name}/{each}" for each in later}
            jobs |= {f"{verb}/{name}" for verb in ("summarise", "export", "record")}
            jobs |= of_models(params, [name])
    return jobs


def of_models(params: Params, chains: Sequence[str]) -> set[str]:
    """What is made with the model files of chains, where params.yaml asks for it, and what shows it."""
    return of_completions(params, chains) | of_codecs(params, chains)


def of_completions(params: Params, chains: Sequence[str]) -> set[str]:
    return with_record("complete_chain", [chain for chain in chains if params.is_completed(chain)])


def of_codecs(params: Params, chains: Sequence[str]) -> set[str]:
    return with_record("codec", [chain for chain in chains if params.is_coded(chain)])


def with_record(verb: str, chains: Sequence[str]) -> set[str]:
    return {job for chain in chains for job in (f"{verb}/{chain}", f"record/{chain}", "report")}


def all_completions(params: Params, key: list[str]) -> set[str]:
    return of_completions(params, list(params.chains))


def all_codecs(params: Params, key: list[str]) -> set[str]:
    return of_codecs(params, list(params.chains))


def after_first_stage(params: Params, key: list[str]) -> set[str]:
    """The training of a first stage, its codes, and all stages that generate them."""
    stages = [name for name in params.stage_plans if params.stages[name].codes == key[1]]
    jobs = {f"train/{key[1]}", f"extract_codes/{key[1]}", "report"}
    return jobs.union(*(after_stage(params, ["stages", stage]) for stage in stages))


def of_schedule(params: Params, key: list[str]) -> set[str]:
    """The scales of a schedule."""
    scales = [name for name, stage in params.stages.items() if (of := stage.diffusion) and of.schedule == key[1]]
    return {job for scale in scales for job in after_stage(params, ["stages", scale])}


def of_draws(params: Params, key: list[str]) -> set[str]:
    """The figures of a stage and of its chains."""
    chains = [name for name, chain in params.chains.items() if key[1] in chain.stages]
    return (
        {f"evaluate/{key[1]}", "report"}
        | {f"{verb}/{name}" for name in chains for verb in ("summarise", "export", "record")}
        | of_models(params, chains)
    )


def after_its_chains(params: Params, key: list[str]) -> set[str]:
    """What a stage generates is what the others of its chain do not, and of chains that share stages with it."""
    stages = with_its_chains(key[1], [chain.stages for chain in params.chains.values()])
    return set().union(*(after_stage(params, ["stages", stage]) for stage in stages))


def of_order(params: Params, key: list[str]) -> set[str]:
    """A stage of several slices."""
    section = params.stages[key[1]]
    return set() if section.scale_factor == 1 or section.slices == "first" else after_stage(params, key)


def cuts(params: Params) -> dict[int, set[int]]:
    """Where the bits of images are cut, by the scale factors that chains use: files of slices have the same images."""
    used = (params.stages[stage] for chain in params.chains.values() for stage in chain.stages)
    stages = [stage for stage in used if stage.codes is None]
    return {
        size: {0, params.data.bits}.union(*(stage.bits for stage in stages if stage.scale_factor == size))
        for size in {stage.scale_factor for stage in stages}
    }


def of_class(params: Params, key: list[str]) -> set[str]:
    """Samples have classes from the first stage on, whichever is conditioned on them."""
    if not params.data.num_classes:
        return set()
    others = {name for name, stage in params.stages.items() if stage.conditioning != "none"} - {key[1]}
    chains = [name for name, chain in params.chains.items() if key[1] in chain.stages and not others & {*chain.stages}]
    return after_stage(params, key) | of_sampling(params, chains)


def of_sampling(params: Params, chains: list[str]) -> set[str]:
    """The samples of some chains, and what is recorded and shown of them."""
    samples = {f"sample_stage/{name}/{stage}" for name in chains for stage in params.chains[name].stages}
    return samples | {f"record/{name}" for name in chains} | ({"report"} if chains else set())


def all_samples(params: Params, key: list[str]) -> set[str]:
    return of_sampling(params, list(params.chains))


def told_samples(params: Params, key: list[str]) -> set[str]:
    chains = [name for name in params.chains if params.num_classes(name)]
    return of_sampling(params, chains)


def after_sampling(params: Params, key: list[str]) -> set[str]:
    """The samples of a chain from a stage on: `chains.CHAIN.temperature.STAGE`."""
    stages = params.chains[key[1]].stages
    samples = {f"sample_stage/{key[1]}/{stage}" for stage in stages[stages.index(key[3]) :]}
    return samples | {f"export/{key[1]}", f"record/{key[1]}", "report"} | of_models(params, [key[1]])


def of_chain(params: Params, key: list[str]) -> set[str]:
    """What another order of a chain's stages changes: all of them, since each is given others."""
    return {"report"}.union(*(after_stage(params, ["stages", stage]) for stage in params.chains[key[1]].stages))


def of_views(params: Params, key: list[str]) -> set[str]:
    """The figure of a chain, what is made with its model file, and what shows them."""
    jobs = {f"{verb}/{key[1]}" for verb in ("summarise", "export", "record")} | {"report"}
    return jobs | of_models(params, [key[1]])


def of_classes(params: Params, key: list[str]) -> set[str]:
    """Other classes: labels in the data, and the stages that are conditioned on them."""
    conditional = [name for name, stage in params.stages.items() if stage.conditioning != "none"]
    return told_samples(params, key).union(
        {"preprocess", "report"}, *(after_stage(params, ["stages", stage]) for stage in conditional)
    )


def of_names(params: Params, key: list[str]) -> set[str]:
    """Other names of classes: captions of stages that are conditioned on them, and what model files and pages state."""
    captioned = [name for name, stage in params.stages.items() if stage.captioned]
    return of_export(params, key).union({"report"}, *(after_stage(params, ["stages", stage]) for stage in captioned))


def of_export(params: Params, key: list[str]) -> set[str]:
    """The model files of all chains, the records that hold them, and what is made with them."""
    return of_models(params, list(params.chains)) | {
        f"{verb}/{chain}" for verb in ("export", "record") for chain in params.chains
    }


LEAVES: dict[str, Scope] = {
    "seed": after_preprocessing,
    "data.num_classes": of_classes,
    "data.class_names": of_names,
    **dict.fromkeys(("data.source", "data.name", "data.bits", "data.split_seed", "data.limit.*"), everything),
    **dict.fromkeys(("data.validation", "data.test", "data.size", "data.stride", "data.channels"), everything),
    **dict.fromkeys(("data.fit", "data.filter", "data.unreadable", "data.release", "data.first_label"), everything),
    "stages.*.scale_factor": after_its_chains,
    "stages.*.bits": after_its_chains,
    "stages.*.slices": after_stage,  # where S = 1, the first slice is all of them
    "stages.*.order": of_order,
    "stages.*.class_conditional": of_class,
    "stages.*.captioned": of_class,
    "stages.*.model.*": after_stage,
    "stages.*.training.*": after_stage,
    "stages.*.trials": after_stage,
    "stages.*.diffusion.draws": of_draws,
    "stages.*.diffusion*": after_stage,
    "stages.*.codes": after_stage,
    "first_stages.*": after_first_stage,
    "schedules.*": of_schedule,
    "completion*": all_completions,
    "codec*": all_codecs,
    "export.*": of_export,
    "data.licence": of_export,
    "chains.*.stages": of_chain,
    "chains.*.views": of_views,
    "chains.*.temperature.*": after_sampling,
    "chains.*.top_k.*": after_sampling,
    "sampling.num_images": all_samples,
    "sampling.seed": all_samples,
    "sampling.class": told_samples,
    "sampling.caption": told_samples,
}
"""Which jobs run again where a leaf changes, by the first pattern that fits; and `preprocess` where `cuts` do."""

EXEMPT = {
    "data.source_digest": "says which source is refused, and changes no image; the audit compares it by itself",
}
"""Leaves that no recipe has, and why."""

BOUND = (
    *("stages.*.scale_factor", "stages.*.bits", "stages.*.slices", "data.bits", "data.source", "chains.*.stages"),
    *("stages.*.class_conditional", "stages.*.captioned", "sampling.caption"),  # without names of classes
    *("stages.*.codes", "stages.*.diffusion*", "first_stages.*.codebook", "schedules.*"),
)
"""Leaves that cannot be changed by themselves in every file: what a stage generates, the others must not."""

FIXED = {
    "DigitsData.bits": "has one value",
    "StageSection.diffusion": "a stage that becomes a scale needs others",
    "DiffusionSection.scale": "the chain needs every scale",
    "ListedSchedule.name": "a schedule of another kind has other keys",
    "FirstStageSection.codebook": "the stages state its bits",
}
"""Fields that cannot be changed by themselves, and why."""


@pytest.mark.slow
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
                now = jobs_of(after)
            except (ValueError, KeyError):  # a KeyError for a name that the file does not have
                assert any(fnmatchcase(key, each) for each in BOUND), f"{key} in {name}: give it a value in OTHERS"
                continue
            used.add(pattern)
            changed.add(field)
            found = {job for job in before | now if before.get(job) != now.get(job)}
            expected = set() if pattern in EXEMPT else LEAVES[pattern](params, parts) | LEAVES[pattern](after, parts)
            expected |= {"preprocess"} if cuts(params) != cuts(after) else set()
            if found != expected:
                wrong.append(f"{name}, {key}: too many {found - expected}, too few {expected - found}")
    assert not wrong, "\n".join(wrong)
    assert used == EXEMPT.keys() | LEAVES.keys()
    assert changed == met - FIXED.keys()
    whole = {f"Params.{key}" for key in ("data", "first_stages", "schedules", "stages", "chains", "sampling", "export")}
    assert fields_of(Section) <= met | whole | {"FirstStageSection.training"} | {
        f"{each}.limit" for each in ("DigitsData", "PhotosData", "Cifar10Data", "MnistData", "FolderData", "ArraysData")
    } | {"StageSection.model", "StageSection.training", "TrainingSection.optimiser"}


def fields_of(section: type[Section]) -> set[str]:
    """Name the fields of all kinds of sections that a file can have."""
    kinds = section.__subclasses__()
    if kinds:
        return set().union(*map(fields_of, kinds))
    return {f"{section.__name__}.{name}" for name in section.model_fields}


TRAINING, GENERATING = ("train", "tune"), ("sample_stage", "complete_chain", "codec")
STAGE_VERBS = (*TRAINING, "evaluate", "mix_orders", "export", *GENERATING)
DRAWING = ("sample_stage", "complete_chain")
NETWORKS = (*TRAINING, "evaluate", "mix_orders", "export", "sample_stage", "codec")
"""Verbs that make networks of sections; `complete_chain` has them from the model file, whose recipe has their code."""
READING = ("evaluate", "export", "sample_stage", "report")
SCORING = ("evaluate", "mix_orders", "export", *GENERATING)
KINDS: tuple[StageKind, ...] = ("cells", "ordered", "scale")
FIRST_STAGE_VERBS = ("train", "extract_codes")
SHIFTED, STACKED = ("pixelcnn_pp", "pixelsnail"), ("spn", "gated_pixelcnn")
EMBEDDED = (*STACKED, *SHIFTED)
HEADED = (*SHIFTED, "imagebart")
LAWS, MIXTURES = ("softmax", "mixture", "placed_mixture", "dequantised"), ("mixture", "placed_mixture", "dequantised")
SOURCES = {get_args(each.model_fields["source"].annotation)[0]: each for each in SourceSection.__subclasses__()}
FILES = ("arrays", "cifar10", "folder", "mnist")


@dataclass(frozen=True)
class Row:
    """Which verbs reach into a module, for which families and laws, or for which sources."""

    verbs: tuple[str, ...]
    families: tuple[str, ...] = FAMILIES
    laws: tuple[str, ...] = LAWS
    sources: tuple[str, ...] = tuple(SOURCES)
    kinds: tuple[StageKind, ...] = KINDS
    first: tuple[str, ...] = ()
    """Verbs of first stages."""

    def names(self) -> set[str]:
        """Write out every digest of code: verb/family/law, verb/source, or verb."""
        kinds = itertools.product(self.kinds, self.families, self.laws)
        staged = {"/".join((verb, *kind)) for kind in kinds for verb in self.verbs if verb in STAGE_VERBS}
        staged |= {f"{verb}/reconstruction" for verb in self.first}
        read = {f"preprocess/{source}" for source in self.sources if "preprocess" in self.verbs}
        return staged | read | {*self.verbs} - {*STAGE_VERBS, "preprocess"}


def staged(
    verbs: tuple[str, ...] = STAGE_VERBS,
    families: tuple[str, ...] = FAMILIES,
    laws: tuple[str, ...] = LAWS,
    kinds: tuple[StageKind, ...] = KINDS,
    first: tuple[str, ...] = (),
) -> Row:
    return Row(verbs, families, laws, kinds=kinds, first=first)


def of_source(*sources: str) -> Row:
    return Row(("preprocess",), sources=sources)


MODULES: dict[str, Row] = {
    "__init__.py": Row(("export", "codec", "record")),  # model files and coded images name the version that wrote them
    "config/data.py": Row(("preprocess",)),  # where the sources' formats and shapes are decided
    "data/preprocess.py": Row(("preprocess",)),
    "data/digest.py": of_source(*FILES),
    "data/hdf5.py": Row((*SCORING, "report"), first=("extract_codes",)),
    "data/images.py": Row(("sample_stage", "record", "report")),
    "data/layout.py": Row(("preprocess", *SCORING, "report"), first=("extract_codes",)),
    "data/writing.py": Row(("preprocess",), first=("extract_codes",)),
    "data/resident.py": Row(("tune", "evaluate", "mix_orders", "export", "complete_chain", "report")),
    "data/in_memory.py": Row(("export", "complete_chain", "report")),
    "data/sources/__init__.py": Row(("preprocess",)),
    "data/sources/source.py": Row(("preprocess",)),
    "data/sources/files.py": of_source(*FILES),
    "data/sources/cifar_pickle.py": of_source("cifar10"),
    "data/sources/jpeg.py": of_source("folder"),
    "data/sources/picture.py": of_source("folder"),
    "data/sources/pictures.py": of_source("folder"),
    "data/sources/spool.py": of_source("folder"),
    "data/sources/subfolders.py": of_source("folder"),
    **{f"data/sources/{source}.py": of_source(source) for source in SOURCES},
    "evaluation/evaluate.py": Row(
        ("evaluate", "mix_orders", "summarise", "export", "complete_chain", "codec", "report")
    ),
    "evaluation/views.py": Row(("mix_orders", "report")),
    "evaluation/inpainting.py": staged(("complete_chain",)),
    "evaluation/neighbours.py": Row(("report",)),
    "evaluation/speed.py": Row(("record", "report")),
    "generation/inpaint.py": Row(("complete_chain",)),
    "generation/sample.py": Row((*DRAWING, "export", "report")),
    "generation/captured.py": Row(DRAWING),
    "generation/samplers.py": Row(DRAWING),
    "generation/uniforms.py": Row((*DRAWING, "export", "record", "report")),
    "generation/views.py": Row(("record", "report")),
    "generation/*.py": Row(GENERATING),
    "image/bits.py": Row(("preprocess",), first=("extract_codes",)),
    "image/slices.py": Row(("preprocess", "mix_orders", "export", *GENERATING, "report"), first=("extract_codes",)),
    "image/views.py": Row(("mix_orders", "record", "report")),
    "image/window.py": staged(NETWORKS, first=FIRST_STAGE_VERBS),
    "laws/__init__.py": staged(),
    "laws/softmax.py": staged(NETWORKS, laws=("softmax",)),
    "laws/placed_mixture.py": staged(NETWORKS, laws=("placed_mixture",)),
    "laws/dequantised.py": staged(NETWORKS, laws=("dequantised",)),
    "first_stages/figures.py": Row((), first=("extract_codes",)),
    "first_stages/spacing.py": Row(READING, first=("extract_codes",)),
    "first_stages/*.py": Row((), first=FIRST_STAGE_VERBS),
    "layers/attention.py": staged(families=("spn", "pixelsnail", "imagebart")),
    "layers/gated.py": staged(families=STACKED),
    "layers/gated_stacks.py": staged(families=STACKED),
    "layers/gated_resnet.py": staged(families=SHIFTED),
    "layers/masked_head.py": staged(families=STACKED),
    "layers/mixture_head.py": staged(laws=MIXTURES),
    "layers/pixel.py": staged(GENERATING),  # step forms alone
    "layers/residual.py": staged(NETWORKS, families=EMBEDDED, first=FIRST_STAGE_VERBS),
    "layers/shifted*.py": staged(families=SHIFTED),
    "layers/slice_embedder.py": staged(NETWORKS, families=EMBEDDED),
    "layers/strict_attention.py": staged(families=("pixelsnail",)),
    "layers/transformer.py": staged(families=("spn", "imagebart")),
    "layers/intensity.py": staged(NETWORKS, first=FIRST_STAGE_VERBS),
    "layers/recompute.py": staged(first=FIRST_STAGE_VERBS),
    "layers/pixel_head.py": staged(first=("train",)),
    "layers/*.py": staged(),
    "likelihood/bits_per_dim.py": Row(("tune", "evaluate", "mix_orders", "summarise", "export", "report")),
    "likelihood/joint_mixture.py": staged(laws=MIXTURES),
    "likelihood/chunked.py": staged(),
    "likelihood/law.py": staged(),
    "models/__init__.py": staged(NETWORKS, first=FIRST_STAGE_VERBS),
    "models/interface.py": staged(first=FIRST_STAGE_VERBS),
    **{f"models/{family}.py": staged(families=(family,)) for family in FAMILIES},
    "pipeline/extract_codes.py": Row((), first=("extract_codes",)),
    "pipeline/evaluate.py": Row(("evaluate",)),
    "pipeline/complete_chain.py": Row(("complete_chain",)),
    "pipeline/codec.py": Row(("codec",)),
    **{f"api/{name}.py": Row(("complete_chain",)) for name in ("arguments", "arrays", "completion", "filler")},
    "api/coding.py": Row(("codec",)),
    "codec/*.py": Row(("codec",)),
    "api/model_file.py": Row(("export",)),
    "api/probe.py": Row(("export", "codec")),
    "pipeline/export.py": Row(("export",)),
    "pipeline/reading.py": Row(("mix_orders", "summarise", "export", "complete_chain", "codec", "record", "report")),
    "pipeline/links.py": Row(("record",)),
    "pipeline/record.py": Row(("record",)),
    "pipeline/report.py": Row(("report",)),
    "pipeline/shown.py": Row(("record", "report")),
    "pipeline/sample_stage.py": Row(("sample_stage",)),
    "pipeline/opening.py": staged(READING),
    "pipeline/mix_orders.py": Row(("mix_orders",)),
    "pipeline/summarise.py": Row(("summarise",)),
    "report/pictures.py": Row(("sample_stage", "record", "report"), first=("extract_codes",)),
    "report/comparison.py": Row(("record", "report")),
    "report/curves.py": Row(("record", "report")),
    "report/published.py": Row(("record", "report")),
    "report/tables.py": Row(("record", "report")),
    "report/bits.py": Row(("complete_chain",)),
    "report/completed.py": Row(("complete_chain",)),
    "report/*.py": Row(("report",)),
    "seeds.py": Row(
        (*TRAINING, "evaluate", "mix_orders", "export", "complete_chain", "report"), first=FIRST_STAGE_VERBS
    ),
    "stages/__init__.py": staged((*NETWORKS, "report"), first=FIRST_STAGE_VERBS),
    "stages/cells.py": staged((*NETWORKS, "report"), first=FIRST_STAGE_VERBS),
    "stages/ordered.py": staged(NETWORKS, kinds=("ordered",)),
    "stages/scale.py": staged(NETWORKS, kinds=("scale",)),
    "stages/reconstruction.py": Row((), first=FIRST_STAGE_VERBS),
    "tracking/*.py": Row(("record",)),
    "trained.py": staged(("mix_orders", *READING), first=("extract_codes",)),
    "training/batches.py": Row(TRAINING, first=("train",)),
    "training/ema.py": Row(TRAINING, first=("train",)),
    "training/finite.py": Row(TRAINING, first=("train",)),
    "training/muon.py": Row(TRAINING, first=("train",)),
    "training/optimiser.py": Row(TRAINING, first=("train",)),
    "training/step.py": Row(TRAINING, first=("train",)),
    "training/trials.py": Row(("tune",)),
    "training/validation.py": Row(("tune",)),
}
"""Which verbs make other results where a module's definitions change, by the first pattern that fits."""

MIXED = {
    # Scales draw their noise, and inpainting noises what is known.
    "diffusion.py": (staged(kinds=("scale",)), staged(("complete_chain",))),
    # Networks that see the channels before, and heads of each channel by itself.
    "likelihood/output_law.py": (
        staged(NETWORKS, STACKED),
        staged(NETWORKS, HEADED, ("softmax",)),
    ),
    # Mixtures in whole numbers are beside the other laws in whole numbers.
    "likelihood/mixture.py": (staged(laws=MIXTURES), staged(("codec",))),
    # The heads of the other mixtures are their own, but the step form of a head is the same.
    "laws/mixture.py": (
        staged(families=STACKED, laws=MIXTURES),
        staged(families=HEADED, laws=("mixture",)),
        staged(GENERATING, HEADED, ("placed_mixture", "dequantised")),
    ),
}
"""The same, of modules that kinds of stages use in different ways."""

EXEMPT_MODULES = {
    **{name if name.endswith(".py") else f"{name}/*.py": why for name, why in code.PLUMBING.items()},
    "__main__.py": "calls the command line",
    "*/__init__.py": "passes names on",
    "api/*.py": "samples, scores and describes for people, and writes no result",
    "tools/*.py": "does what people ask for, and writes no result",
    "evaluation/*.py": "checks models, and writes nothing",
    "shapes.py": "annotates, and computes nothing",
    "pipeline/adopt.py": "gives a checkpoint another recipe, and no other weights",
    "pipeline/check.py": "writes nothing",
    "pipeline/last_commit.py": "writes nothing",
    "pipeline/plan.py": "writes nothing",
    "pipeline/preprocess.py": "hands on what the recipe says",
    "pipeline/train.py": "hands on what the recipe says",
    "pipeline/verify.py": "writes nothing",
    "planning/*.py": "forecasts, and writes nothing",
    "training/*.py": "keeps a training going, and its history; weights are decided by its steps",
}
"""Modules that no digest has, and why."""


def modules_reached() -> dict[str, set[str]]:
    """Find for every module which digests of code it is in."""
    found: dict[str, set[str]] = {}

    def note(name: str, *roots: str, **chosen: str) -> None:
        for definition in code.reach(*roots, **chosen):
            found.setdefault(definition.path.relative_to(code.ROOT).as_posix(), set()).add(name)

    for verb, roots in recipes.CODE.items():
        if verb in STAGE_VERBS:
            for kind, family, law in itertools.product(KINDS, FAMILIES, LAWS):
                note(f"{verb}/{kind}/{family}/{law}", *roots, kind=kind, family=family, law=law)
        if verb in FIRST_STAGE_VERBS:
            note(f"{verb}/reconstruction", *roots, kind="reconstruction")
        elif verb == "preprocess":
            for source, section in SOURCES.items():
                note(f"{verb}/{source}", *roots, f"config/data.py:{section.__name__}", source=source)
        elif verb not in STAGE_VERBS:
            note(verb, *roots)
    return found


def test_every_module_is_in_just_the_digests_that_it_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "_mentioned", cache(code._mentioned))  # nothing is edited meanwhile
    reached, wrong, used = modules_reached(), [], set()
    for path in sorted(code.ROOT.rglob("*.py")):
        name = path.relative_to(code.ROOT).as_posix()
        if name in MIXED:
            assert reached[name] == set().union(*(row.names() for row in MIXED[name]))
            continue
        pattern = next((each for each in MODULES if fnmatchcase(name, each)), None)
        exempt = next((each for each in EXEMPT_MODULES if fnmatchcase(name, each)), None)
        found = reached.get(name, set())
        if pattern in MODULES and not (exempt and not found and pattern != name):
            used.add(pattern)
            expected = MODULES[pattern].names()
        else:
            assert exempt, f"{name}: in no table, so nobody has said what it makes stale"
            used.add(exempt)
            expected = set()
        if found != expected:
            wrong.append(f"{name}: too many {sorted(found - expected)}, too few {sorted(expected - found)}")
    assert not wrong, "\n".join(wrong)
    assert used == MODULES.keys() | EXEMPT_MODULES.keys(), (MODULES.keys() | EXEMPT_MODULES.keys()) - used


def fields() -> set[str]:
    """Name the fields that sections of parameters have, all of which are in recipes as they are."""
    return {name.partition(".")[2] for name in fields_of(Section)}


def test_science_reads_of_sections_and_plans_what_recipes_have() -> None:
    """What configuration computes out of them is in no digest: such as how dilations follow from a choice."""
    plan = recipes.stage_recipe(bases()["captions"], "low", "")["plan"].keys()
    allowed = {"section": fields(), "plan": {*plan, "name", "image_bits", "kind"}}  # the stage's name, the data's bits
    wrong = []
    trained = [trained_by(*each) for each in itertools.product(FAMILIES, LAWS, ("cells", "ordered"))]
    for path in {path for definitions in trained for path, _ in definitions}:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            owner = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
            if owner in allowed and node.attr not in allowed[owner]:
                wrong.append(f"{path.relative_to(code.ROOT)}:{node.lineno}: {owner}.{node.attr}")
    assert wrong == []


def trained_by(family: str, law: str, kind: str) -> set[code.Definition]:
    return code.reach(*recipes.CODE["train"], kind=kind, family=family, law=law)
