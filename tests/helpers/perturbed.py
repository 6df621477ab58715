"""Parameter files with one leaf changed, and the jobs whose results are made from something else then."""

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from spn.config import Params, load_params
from spn.config.section import Section
from spn.provenance import results_of

ROOT = Path(__file__).parents[2]
DIGEST = "0" * 64
PERCEPTUAL = {"weights": "vgg16.safetensors", "sha256": DIGEST}

Values = dict[str, Any]
Jobs = dict[str, Any]
"""Jobs by the names of their logs, and the recipes of what they make."""

OTHERS: dict[str, tuple[object, ...]] = {
    "chains.*.views": (("identity", "rotate"),),
    "data.channels": (1, 3),
    "data.class_names": (("one", "two", "four"),),
    "data.filter": ("box", "lanczos"),
    "data.first_label": (0, 1),
    "data.fit": ("crop", "resize"),
    "data.limit.*": (3,),
    "data.size": (32, 64),
    "data.source_digest": (DIGEST,),
    "data.test": (7, 0.2),
    "data.unreadable": ("skip", "refuse"),
    "data.validation": (7, 0.2),
    "first_stages.*.adversarial": ({},),
    "first_stages.*.downsampling": (2, 4),
    "first_stages.*.perceptual": (PERCEPTUAL,),
    "first_stages.*.perceptual.sha256": (DIGEST.replace("0", "1"),),
    "codec": ({},),
    "completion": ({},),
    "export.weights": ("float32", "bfloat16"),
    "completion.masks": (("left",),),
    "sampling.class": (0, 1),
    "schedules.*.name": ("geometric", "spaced"),
    "stages.*.codes": ("vq", "other"),
    "stages.*.diffusion": ({"schedule": "none", "scale": 1},),
    "stages.*.diffusion.objective": ("kl", "cross_entropy"),
    "stages.*.diffusion.schedule": ("one", "one_listed"),
    "stages.*.model.context_enters": ("both", "pixelcnn"),
    "stages.*.model.channel_order": ("masks", "head"),
    "stages.*.model.embedder_dilation": (1, 2),
    "stages.*.model.heads": (1, 2),
    "stages.*.model.intensity": ("scaled", "embedded"),
    "stages.*.model.law": ("softmax", "mixture"),
    "stages.*.order": ("diagonal", "raster"),
    "stages.*.slices": ("first", "all"),
    "*stages.*.training.clip_norm": (2.0,),
    "*stages.*.training.precision": ("float32", "bfloat16"),
    "*stages.*.training.schedule": ("constant", "cosine"),
}
"""Values for leaves that may not be just any other; the first that is another is taken."""


def bases() -> dict[str, Params]:
    """Load every shipped file, and variants for what none of them states."""
    files = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]
    found = {path.stem: load_params(path) for path in files}
    shipped = values_of(found["params"])
    for stage in shipped["stages"].values():
        stage["training"]["optimiser"] = {"name": "rmsprop", "learning_rate": 0.001}
    for chain in shipped["chains"].values():
        chain["temperature"] = dict.fromkeys(chain["stages"], 0.9)
    found["rmsprop, temperature"] = validated(shipped)
    told = values_of(found["folder"])
    told["data"] |= {"num_classes": 3, "class_names": ["one", "two", "three"]}
    told["data"]["limit"] = {"train": 5, "validation": 5, "test": 5}
    told["sampling"]["class"] = 2
    for name in ("first_high", "low"):
        told["stages"][name]["class_conditional"] = True
    bart = {"family": "imagebart", "width": 12, "heads": 2, "decoder_layers": 1}
    found["imagebart"] = with_family(found["params"], bart)
    found["captions"] = with_captions(with_family(validated(told), bart))
    arrays = values_of(found["imagenet64"])
    shared = {key: arrays["data"][key] for key in ("name", "bits", "split_seed", "size", "channels", "validation")}
    arrays["data"] = shared | {"source": "arrays", "release": "imagenet-64-original"}
    found["arrays"] = validated(arrays)
    tuned = values_of(found["params"])
    for stage in tuned["stages"].values():
        stage["trials"] = [stage["training"] | {"steps": steps} for steps in (5, 6)]
    return found | {"classes": validated(told), "trials": validated(tuned), "codes": with_codes(found["params"])}


def with_codes(params: Params) -> Params:
    """Add first stages, and chains of codes and of diffusions, with every kind of schedule."""
    values = values_of(params)
    raster = values["stages"]["raster"]
    of_codes = raster | {"codes": "vq"}
    first_stage = {"downsampling": 2, "codebook": 32, "training": raster["training"]}
    values["first_stages"] = {"vq": first_stage, "other": first_stage | {"adversarial": {}, "perceptual": PERCEPTUAL}}
    values["schedules"] = {
        "unused": {"name": "geometric", "scales": 3},
        "unused_spaced": {"name": "spaced", "scales": 3},
        "even": {"name": "geometric", "scales": 2},
        "listed": {"name": "listed", "shares": [0.5, 0]},
        "one": {"name": "geometric", "scales": 1},
        "one_listed": {"name": "listed", "shares": [0]},
    }
    scales = {"single": (raster, "one", 1), "of_codes": (of_codes, "even", 2), "of_pixels": (raster, "listed", 2)}
    for name, (stage, schedule, count) in scales.items():
        names = [f"{name}{scale}" for scale in range(count, 0, -1)]
        for scale, each in zip(range(count, 0, -1), names, strict=True):
            values["stages"][each] = stage | {"diffusion": {"schedule": schedule, "scale": scale}}
        values["chains"][name] = {"stages": names, "top_k": {names[-1]: 3}}
    # First, because the first stage of a file is changed, and their codes or schedule can be.
    priors = {
        "prior": of_codes,
        "other_prior": of_codes | {"codes": "other"},
        "single1": values["stages"].pop("single1"),
    }
    values["stages"] = priors | values["stages"]
    values["chains"] |= {name: {"stages": [name]} for name in ("prior", "other_prior")}
    return validated(values | {"completion": {}, "codec": {}})


def with_captions(params: Params) -> Params:
    """Condition on captions where stages are conditioned on classes."""
    values = values_of(params)
    for stage in values["stages"].values():
        stage |= {"class_conditional": False, "captioned": stage["class_conditional"]}
    values["sampling"] |= {"class": None, "caption": "two"}
    return validated(values)


def with_family(params: Params, model: Values) -> Params:
    """Give every stage the same network."""
    values = values_of(params)
    for stage in values["stages"].values():
        stage["model"] = model
    return validated(values)


def values_of(params: Params) -> Values:
    """Write parameters as plain values."""
    return params.model_dump(mode="json", by_alias=True)


def validated(values: Values) -> Params:
    """Validate values, that every chain is a tiling included."""
    params = Params.model_validate_json(json.dumps(values))
    if any(params.stage_plans[plan.name] != plan for plans in params.plans.values() for plan in plans):
        raise ValueError("chains that share a stage must agree on what comes before it")
    return params


def leaves(section: object, key: str = "") -> Iterator[tuple[str, str, Any]]:
    """List dotted keys with the class and field that each is of, and the value; lists are one leaf."""
    fields = type(section).model_fields.items() if isinstance(section, Section) else ()
    for name, field in fields:
        inner, value = f"{key}{field.alias or name}", getattr(section, name)
        of = f"{type(section).__name__}.{name}"
        if isinstance(value, Section):
            yield from leaves(value, f"{inner}.")
        elif isinstance(value, dict):
            for each, item in value.items():
                inside = (
                    leaves(item, f"{inner}.{each}.") if isinstance(item, Section) else [(f"{inner}.{each}", of, item)]
                )
                yield from inside
        else:
            yield inner, of, value


def with_another(params: Params, key: str, value: Any) -> Values:
    """Change one leaf, and what cannot stay as it was beside it."""
    values = values_of(params)
    path = key.split(".")
    section = values
    for name in path[:-1]:
        section = section[name]
    last = path[-1]
    match [*path[:1], *path[2:]]:
        case ["stages", "bits"]:
            _move_cut(values, path[1])
        case ["stages", "model", "family"]:
            families = {"spn": "gated_pixelcnn", "gated_pixelcnn": "pixelsnail"}
            family = families.get(str(value), "gated_pixelcnn")
            section.clear()
            section |= {"family": family, "width": 12} | (
                {"layers": 1} if family == "gated_pixelcnn" else {"blocks": 1}
            )
        case ["stages" | "first_stages", "training", "optimiser", "name"]:
            rate = section["learning_rate"]
            section.clear()
            section |= {"name": "rmsprop" if value == "adamw" else "adamw", "learning_rate": rate}
        case ["stages", "trials"]:
            section[last] = [section["training"] | {"steps": steps} for steps in (7, 8)]
        case ["stages", "scale_factor"]:
            _share_scale(values, path[1], 1 if value == 2 else 2)
        case ["chains", "stages"]:
            section[last] = section[last][::-1] if len(section[last]) > 1 else ["another"]
            values["stages"].setdefault("another", copy.deepcopy(values["stages"][next(iter(value))]))
        case ["sampling"] if last == "class":
            section |= {"class": _another(key, value), "caption": None}
        case ["sampling"] if last == "caption":
            section[last] = next(name for name in params.data.class_names or ("two",) if name != value)
        case ["data"] if last == "source":
            values["data"] = {"source": "mnist", "name": "other", "bits": values["data"]["bits"], "validation": 5}
            if value == "mnist":
                values["data"] |= {"source": "cifar10"}
        case ["data"] if last == "bits":
            section[last] = value - 1
            for stage in values["stages"].values():
                stage["bits"] = [min(bit, value - 1) for bit in stage["bits"]]
        case _:
            section[last] = _another(key, value)
    return values


def _another(key: str, value: object) -> object:
    for pattern, others in OTHERS.items():
        if fnmatchcase(key, pattern):
            kind = [other for other in others if other != value and (value is None or type(other) is type(value))]
            return kind[0]
    match value:
        case bool():
            return not value
        case int():
            return value + 12 if key.endswith("width") else value + 1
        case float():
            return value / 2 if value else 0.25
        case str():
            return f"{value}x"
        case tuple():
            return [item / 2 for item in value]
    raise AssertionError(f"{key}: no other value is known for {value}")


def _move_cut(values: Values, stage: str) -> None:
    """Move a cut between bits, in all stages that have it and are in its chains, or in chains that share stages."""
    bits = values["stages"][stage]["bits"]
    cut = bits[0] or bits[1]
    for name in with_its_chains(stage, [chain["stages"] for chain in values["chains"].values()]):
        values["stages"][name]["bits"] = [bit - 1 if bit == cut else bit for bit in values["stages"][name]["bits"]]


def with_its_chains(stage: str, chains: Iterable[Sequence[str]]) -> set[str]:
    """Name a stage, the others of its chains, and those of chains that share stages with these."""
    names, sets = {stage}, [{*chain} for chain in chains]
    while more := set().union(*(chain for chain in sets if chain & names)) - names:
        names |= more
    return names


def _share_scale(values: Values, stage: str, scale: int) -> None:
    for chain in values["chains"].values():
        if stage in chain["stages"]:
            for other in chain["stages"]:
                values["stages"][other]["scale_factor"] = scale


def jobs_of(params: Params) -> Jobs:
    """State what every job's results are made from, given the same data."""
    jobs: Jobs = {"preprocess": {}}
    for result in results_of(params):
        match result.path.parts:
            case ["data", *_]:
                jobs["preprocess"] |= {str(result.path): result.recipe(DIGEST)}
            case ["results", "stages", stage, file]:
                verb = {"checkpoint.safetensors": "train", "codes.h5": "extract_codes"}.get(file, "evaluate")
                jobs[f"{verb}/{stage}"] = result.recipe(DIGEST)
            case ["results", "chains", chain, "completion", _]:
                jobs[f"complete_chain/{chain}"] = result.recipe(DIGEST)
            case ["results", "chains", chain, "rate.json"]:
                jobs[f"codec/{chain}"] = result.recipe(DIGEST)
            case ["results", "chains", chain, "model.safetensors"]:
                jobs[f"export/{chain}"] = result.recipe(DIGEST)
            case ["results", "chains", chain, "metrics.json"]:
                jobs[f"summarise/{chain}"] = result.recipe(DIGEST)
            case ["results", "chains", chain, stage, _]:
                jobs[f"sample_stage/{chain}/{stage}"] = result.recipe(DIGEST)
            case ["mlflow", "chains", file]:
                jobs[f"record/{Path(file).stem}"] = result.recipe(DIGEST)
            case ["results", "plots", "report.json"]:
                jobs["report"] = result.recipe(DIGEST)
            case other:
                raise AssertionError(f"{other}: of which job?")
    return jobs
