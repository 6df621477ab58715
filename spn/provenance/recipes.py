"""Recipes: what each result is made from, so that nothing is made twice and nothing stale is used.

A recipe is a nested dictionary of JSON values, defined here once for each verb. The verb writes it into the result,
every consumer of the result compares it with the expected recipe, and the workflow makes a result with another recipe
again (`spn.provenance.results`). A recipe contains the digests of the recipes of its inputs, so that a change reaches
everything that depends on it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from spn.config import DataSection, FirstStageSection, InputError, Params, StageSection
from spn.files import json_digest
from spn.provenance.code import code_digest, load_code

Recipe = dict[str, Any]

CODE = {
    "preprocess": ("data/preprocess.py:write_slices",),
    "train": ("training/step.py:Learner",),
    # Of a stage with trials: validation and the choice decide its weights too.
    "tune": ("training/step.py:Learner", "training/trials.py:best_trial", "training/validation.py:estimate"),
    "extract_codes": ("pipeline/extract_codes.py:extract_codes",),
    "evaluate": ("pipeline/evaluate.py:evaluate",),
    "sample_stage": ("pipeline/sample_stage.py:sample_stage",),
    "summarise": ("pipeline/summarise.py:summarise",),
    "mix_orders": ("pipeline/mix_orders.py:mix_orders",),
    "export": ("pipeline/export.py:export",),
    "complete_chain": ("pipeline/complete_chain.py:complete_chain",),
    "codec": ("pipeline/codec.py:codec",),
    "record": ("pipeline/record.py:record",),
    "report": ("pipeline/report.py:report",),
}
"""The roots of the code that decides each verb's results; see `spn.provenance.code`.

Only its steps decide the weights of a training: the lock, the saved state and the history are in no recipe. With
trials the choice among them does too.
"""

APART = {"source_digest", "class_names", "licence"}
"""Keys of `data` that recipes of images and stages leave out: the first may refuse a source but changes no image, names
matter only to stages that are captioned, whose plans have their captions, and the licence only to model files."""

OF_CODES = ("first_stages/spacing.py:equal_steps", "first_stages/vq.py:VqAutoencoder")
"""Roots of stages that generate codes: the spacing of their noise, and what decodes their samples."""


def verb_digest(verb: str, section: StageSection | FirstStageSection | DataSection | None = None) -> str:
    """Hash the code that decides a verb's results, for this stage or this source."""
    return code_digest(*_roots(verb, section), **_chosen(section))


def load_verb(verb: str, section: StageSection | FirstStageSection | DataSection | None = None) -> None:
    """Import all code that decides a verb's results, so that its digest is of this code even if files are edited."""
    load_code(*_roots(verb, section), **_chosen(section))


def _roots(verb: str, section: StageSection | FirstStageSection | DataSection | None) -> tuple[str, ...]:
    # The section of a source decides its files and their shape.
    if verb == "preprocess":
        return (*CODE[verb], f"config/data.py:{type(section).__name__}")
    is_of_codes = isinstance(section, StageSection) and section.codes is not None
    return (*CODE[verb], *OF_CODES) if is_of_codes else CODE[verb]


def _chosen(section: StageSection | FirstStageSection | DataSection | None) -> dict[str, str]:
    """Return the choices in params.yaml that name a file of this package."""
    if isinstance(section, FirstStageSection):
        return {"kind": "reconstruction"}
    if isinstance(section, StageSection):
        return {"kind": section.kind, "family": section.model.family, "law": section.model.law}
    return {} if section is None else {"source": section.source}


def images_recipe(params: Params) -> Recipe:
    """Resolve what decides the images of a source, except its content."""
    # Not `source_digest`, which may refuse a source but does not change the slices.
    return params.data.model_dump(mode="json", exclude=APART)


def slices_recipe(params: Params, scale_factor: int) -> Recipe:
    """Resolve everything that decides the slices in an HDF5 file, except the content of the source."""
    return {
        "scale_factor": scale_factor,
        "cuts": list(params.cuts[scale_factor]),
        "data": images_recipe(params),
        "code_digest": verb_digest("preprocess", params.data),
    }


def training_recipe(params: Params, name: str, data_digest: str) -> Recipe:
    """Resolve everything that decides the weights of a network: of a stage, or of a first stage."""
    return (first_stage_recipe if name in params.first_stages else stage_recipe)(params, name, data_digest)


def first_stage_recipe(params: Params, name: str, data_digest: str) -> Recipe:
    """Resolve everything that decides the weights of a first stage."""
    section = params.first_stages[name]
    return {
        "stage": name,
        "seed": params.seed,
        "first_stage": section.model_dump(mode="json", exclude={"training"}),
        "training": section.training.model_dump(mode="json"),
        "data": params.data.model_dump(mode="json", exclude=APART | {"num_classes"}),
        "data_digest": data_digest,
        "code_digest": verb_digest("train", section),
    }


def codes_recipe(params: Params, name: str, data_digest: str) -> Recipe:
    """Resolve everything that decides the codes of all images under a first stage."""
    return {
        "first_stage": name,
        "data_digest": data_digest,
        "training": recipe_digest(first_stage_recipe(params, name, data_digest)),
        "cuts": list(params.code_cuts(name)),
        "white_level": params.data.white_level,
        "code_digest": verb_digest("extract_codes", params.first_stages[name]),
    }


def stage_recipe(params: Params, stage: str, data_digest: str) -> Recipe:
    """Resolve everything that decides the weights of `stage`.

    `data_digest` is that of the images, also for a stage that generates their codes.
    """
    section = params.stages[stage]
    plan = params.stage_plans[stage]
    trials = {str(index): trial.model_dump(mode="json") for index, trial in enumerate(section.trials)}
    return {
        "stage": stage,
        "seed": params.seed,
        "plan": {
            "scale_factor": plan.scale_factor,
            "slices": section.slices,
            "bits": list(plan.bits),
            "num_levels": plan.num_levels,
            "high_levels": plan.high_levels,
            "own_mask": plan.own_mask,
            "targets": [list(target) for target in plan.targets],
            "known": [list(row) for row in plan.known],
            "num_classes": plan.num_classes,
            # No such key for stages that are not captioned.
            **({"captions": [list(caption) for caption in plan.captions]} if plan.captions else {}),
        },
        "model": section.model.model_dump(mode="json"),
        "training": section.training.model_dump(mode="json"),
        # By number, so that a difference names the trial. Without trials there is no such key.
        **({"trials": trials} if trials else {}),
        # No such keys for other kinds of stages.
        **_diffusion(params, section),
        **({} if section.codes is None else {"codes": recipe_digest(codes_recipe(params, section.codes, data_digest))}),
        # Not `num_classes`, which matters only to stages that are conditioned on them, whose plans have it.
        "data": params.data.model_dump(mode="json", exclude=APART | {"num_classes"}),
        "data_digest": data_digest,
        "code_digest": verb_digest(training_verb(params, stage), section),
    }


def _diffusion(params: Params, section: StageSection) -> Recipe:
    if section.diffusion is None:
        return {}
    schedule = params.schedules[section.diffusion.schedule].model_dump(mode="json")
    return {"diffusion": section.diffusion.model_dump(mode="json", exclude={"draws"}) | {"schedule": schedule}}


def training_verb(params: Params, name: str) -> str:
    """Return under which name `CODE` has the training of a network."""
    return "tune" if params.trained(name).trials else "train"


def trial_recipe(params: Params, stage: str, trial: int, data_digest: str) -> Recipe:
    """Resolve everything that decides the weights and the estimate of one trial, whatever the others are."""
    recipe = stage_recipe(params, stage, data_digest)
    trials = recipe.pop("trials")
    return recipe | {"training": trials[str(trial)]}


def evaluation_recipe(params: Params, stage: str, data_digest: str) -> Recipe:
    """Resolve everything that decides the figures of a stage."""
    return {
        "stage": stage,
        "data_digest": data_digest,
        "training": recipe_digest(stage_recipe(params, stage, data_digest)),
        "split": "test",
        "is_bound": params.is_bound(stage),
        **_draws(params, stage),
        "code_digest": verb_digest("evaluate", params.stages[stage]),
    }


def _draws(params: Params, stage: str) -> dict[str, int]:
    noise = params.stage_plans[stage].noise
    return {"draws": noise.draws} if noise else {}


class SamplingOptions(NamedTuple):
    """Options of sampling that are not in params.yaml: images of one class or caption, and arithmetic in float64."""

    label: int | None = None
    """The class of all images, instead of sampling.class."""
    caption: str | None = None
    """The caption of all images, instead of sampling.caption."""
    exact: bool = False


AS_CONFIGURED = SamplingOptions()


def sampling_recipe(
    params: Params, chain: str, stage: str, data_digest: str, options: SamplingOptions = AS_CONFIGURED
) -> Recipe:
    """Resolve everything that decides the images of a chain after `stage`."""
    section = params.chains[chain]
    before = section.stages[: section.stages.index(stage)]
    given = sampling_recipe(params, chain, before[-1], data_digest, options) if before else None
    return {
        "chain": chain,
        "stage": stage,
        "data_digest": data_digest,
        "training": recipe_digest(stage_recipe(params, stage, data_digest)),
        "num_images": params.sampling.num_images,
        "seed": params.sampling.seed,
        "temperature": section.temperature_of(stage),
        # No such key where all levels are sampled from.
        **({"top_k": section.top_k[stage]} if stage in section.top_k else {}),
        "num_classes": params.num_classes(chain),
        "label": sampled_label(params, chain, options.label, options.caption),
        "exact": options.exact,
        "white_level": params.data.white_level,
        "given": None if given is None else recipe_digest(given),
        "code_digest": verb_digest("sample_stage", params.stages[stage]),
    }


def completion_recipe(params: Params, chain: str, data_digest: str) -> Recipe:
    """Resolve everything that decides what a chain draws given a part of test images."""
    return {
        "chain": chain,
        "model": recipe_digest(export_recipe(params, chain, data_digest)),
        "completion": params.completion and params.completion.model_dump(mode="json"),
        "code_digest": _of_stages("complete_chain", params, chain),
    }


def codec_recipe(params: Params, chain: str, data_digest: str) -> Recipe:
    """Resolve everything that decides the size of a chain's coded test images."""
    return {
        "chain": chain,
        "model": recipe_digest(export_recipe(params, chain, data_digest)),
        "codec": params.codec and params.codec.model_dump(mode="json"),
        "code_digest": _of_stages("codec", params, chain),
    }


def _of_stages(verb: str, params: Params, chain: str) -> dict[str, str]:
    return {stage: verb_digest(verb, params.stages[stage]) for stage in params.chains[chain].stages}


def sampled_label(
    params: Params, chain: str, label: int | None = None, caption: str | None = None
) -> int | list[int] | None:
    """Return the class of all images of a chain, or the tokens of a caption that is no class's name.

    None if the chain has no classes, or if images take them in turn. `label` and `caption` replace sampling.class and
    sampling.caption. Raises InputError if the chain has no such class or caption.
    """
    num_classes = params.num_classes(chain)
    if label is None and caption is None:
        if not num_classes:
            return None
        label, caption = params.sampling.class_, params.sampling.caption
    if caption is not None:
        try:
            found = params.label_of(chain, caption)
        except InputError as error:
            raise InputError(f"--caption: {error}") from error
        return found if isinstance(found, int) else list(found)
    if label is None:
        return None
    if not num_classes:
        raise InputError(f"--class: expected a chain with a stage that is class_conditional, got {chain}")
    if label not in range(num_classes):
        raise InputError(f"--class: expected one of the classes 0 to {num_classes - 1}, got {label}")
    return label


def summary_recipe(params: Params, chain: str, data_digest: str) -> Recipe:
    """Resolve everything that decides the figures of a chain: sums of its stages', or of a mixture of orders."""
    stages, views = params.chains[chain].stages, params.chains[chain].views
    recipe = {
        "chain": chain,
        "stages": {stage: recipe_digest(evaluation_recipe(params, stage, data_digest)) for stage in stages},
        "code_digest": verb_digest("summarise"),
    }
    if not views:
        return recipe
    code = {stage: verb_digest("mix_orders", params.stages[stage]) for stage in stages}
    return recipe | {"views": list(views), "code_digest": code}


def export_recipe(params: Params, chain: str, data_digest: str) -> Recipe:
    """Resolve everything that decides a chain's model file, except the commit that it names."""
    section = params.chains[chain]
    return {
        "chain": chain,
        "summary": recipe_digest(summary_recipe(params, chain, data_digest)),
        "temperature": section.temperature,
        "top_k": section.top_k,
        "class_names": list(params.data.class_names),
        "licence": params.data.licence,
        "weights": params.export.weights,
        "code_digest": _of_stages("export", params, chain),
    }


def record_recipe(params: Params, chain: str, data_digest: str, experiment: Mapping[str, str] | None) -> Recipe:
    """Resolve everything that decides a chain's record in MLflow, except times.

    `experiment` has the URI of the store, and the id and token of the experiment; None if the store no longer exists.
    """
    return {
        "chain": chain,
        "experiment": experiment and dict(experiment),
        "summary": recipe_digest(summary_recipe(params, chain, data_digest)),
        "samples": {
            stage: recipe_digest(sampling_recipe(params, chain, stage, data_digest))
            for stage in params.chains[chain].stages
        },
        "model": recipe_digest(export_recipe(params, chain, data_digest)),
        **_drawn(params, [chain], data_digest),
        "code_digest": verb_digest("record"),
    }


def report_recipe(params: Params, data_digest: str) -> Recipe:
    """Resolve everything that decides the tables and figures of the whole experiment, except times."""
    return {
        "data": images_recipe(params),
        "num_real_images": params.sampling.num_images,
        "white_level": params.data.white_level,
        "images": data_digest,
        # They stand below the samples of conditional chains.
        "class_names": list(params.data.class_names),
        "chains": {chain: recipe_digest(summary_recipe(params, chain, data_digest)) for chain in params.chains},
        "stages": {name: recipe_digest(training_recipe(params, name, data_digest)) for name in params.trained_plans},
        **_drawn(params, list(params.chains), data_digest),
        # The recipe of a chain's last stage contains those of the stages before.
        "samples": {
            name: recipe_digest(sampling_recipe(params, name, chain.stages[-1], data_digest))
            for name, chain in params.chains.items()
        },
        "code_digest": verb_digest("report"),
    }


def _drawn(params: Params, chains: Sequence[str], data_digest: str) -> Recipe:
    """Return the recipes of reconstructions, and of completions and coded images where params.yaml asks for them."""
    names = dict.fromkeys(name for chain in chains if (name := params.codes(chain)) is not None)
    codes = {name: recipe_digest(codes_recipe(params, name, data_digest)) for name in names}
    drawn = {
        chain: recipe_digest(completion_recipe(params, chain, data_digest))
        for chain in chains
        if params.is_completed(chain)
    }
    coded = {
        chain: recipe_digest(codec_recipe(params, chain, data_digest)) for chain in chains if params.is_coded(chain)
    }
    found = {"codes": codes, "completion": drawn, "codec": coded}
    return {name: recipes for name, recipes in found.items() if recipes}


def recipe_digest(recipe: Recipe) -> str:
    """Hash a recipe; equal recipes have equal digests."""
    return json_digest(recipe)


def differing_keys(expected: Any, actual: Any, key: str = "") -> list[str]:
    """List where two recipes differ, as `dotted.key: expected X, got Y`; last the code's digest, which tells least."""
    if isinstance(expected, dict | None) and isinstance(actual, dict | None) and (expected or actual):
        expected, actual = expected or {}, actual or {}
        return [
            line
            for name in sorted(expected.keys() | actual.keys(), key=lambda name: (name == "code_digest", name))
            for line in differing_keys(expected.get(name), actual.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if expected == actual else [f"{key}: expected {expected}, got {actual}"]
