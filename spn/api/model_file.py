"""The model file: a chain with all of its weights, and everything that is known of it, as one safetensors file.

Tensors are named `stage/weight`. The notes in the file's metadata have the parameters of the chain, its figures, where
they come from, and a probe (`spn.api.probe`).

`FORMAT` counts the versions of the notes. A file of a higher format is refused, one of a lower format is
read; whatever version wrote it, the probe decides whether it still means the same. The parameters of format 1 have more
sections than `OF_CHAIN`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from spn.api.probe import Part, check_probe, check_walk, probe_first_stage, probe_pictures, probe_stage
from spn.checkpoint import load_tensors
from spn.config import InputError, Params, SamplingSection
from spn.config.references import check_references
from spn.first_stages import VqAutoencoder
from spn.generation.sample import sample_labels
from spn.notes import Notes
from spn.stages import build_stage
from spn.trained import build_first_stage, build_trained

FORMAT = 2
PICTURES = "probe/pictures"
NEEDED = {"chain", "params", "shares", "probe", "figures", "data", "training", "version", "commit", "weights"}
"""What the notes of every model file have."""
OF_CHAIN = ("seed", "data", "first_stages", "schedules", "stages", "chains")
"""Sections of params.yaml that a model file has; the others say what an experiment does with its chains."""
NOTHING_DONE = SamplingSection(num_images=1, seed=0)
CPU = torch.device("cpu")


class Loaded(NamedTuple):
    """What a model file holds, on the CPU."""

    params: Params
    chain: str
    parts: dict[str, Part]
    first_stage: VqAutoencoder | None
    notes: Notes


def of_chain(params: Params, chain: str) -> Params:
    """Return parameters with nothing but what a chain needs."""
    stages = {name: params.stages[name] for name in params.chains[chain].stages}
    codes = params.codes(chain)
    # Without the discriminator, which only its training needs.
    first_stages = {} if codes is None else {codes: params.first_stages[codes].model_copy(update={"adversarial": None})}
    used = {stage.diffusion.schedule for stage in stages.values() if stage.diffusion}
    small = Params(
        seed=params.seed,
        data=params.data,
        first_stages=first_stages,
        schedules={name: params.schedules[name] for name in sorted(used)},
        stages=stages,
        chains={chain: params.chains[chain]},
        sampling=NOTHING_DONE,
    )
    return small.measured({name: kept for name, kept in params.shares.items() if name in stages})


def contents(loaded: Loaded, dtype: torch.dtype) -> tuple[dict[str, Tensor], Notes]:
    """Return the tensors and notes of a file: weights as `dtype`, and a probe of the weights as they are stored.

    Names in the notes of `loaded` are kept; `format`, `chain`, `params`, `shares`, `weights` and `probe` are added.
    """
    params, chain = loaded.params, loaded.chain
    networks: dict[str, nn.Module] = {name: part.network for name, part in loaded.parts.items()}
    if loaded.first_stage is not None:
        networks[str(params.codes(chain))] = loaded.first_stage
    tensors = {
        f"{name}/{key}": value.to(dtype) if value.is_floating_point() else value
        for name, network in networks.items()
        for key, value in network.state_dict().items()
        if not key.startswith("adversary.")
    }
    grid = params.grid_of_codes(params.codes(chain))
    tensors[PICTURES] = probe_pictures(*grid)
    notes = loaded.notes | {
        "format": FORMAT,
        "chain": chain,
        "params": params.model_dump(mode="json", by_alias=True, include={*OF_CHAIN}),
        "shape": list(params.data.shape),
        "num_classes": params.num_classes(chain),
        "shares": {name: list(kept) for name, kept in params.shares.items()},
        "weights": str(dtype).removeprefix("torch."),
    }
    parts, first_stage = _build(params, chain, tensors, notes)
    return tensors, notes | {"probe": _probe(params, chain, parts, first_stage, tensors[PICTURES])}


def load_model(path: Path) -> Loaded:
    """Read a model file and compare it with its probe.

    Raises InputError if it is no model file, is damaged, has a newer format, or if its weights no longer mean the same
    under this version of the code.
    """
    tensors, notes = load_tensors(path)
    if "format" not in notes:
        raise InputError(
            f"{path}: expected a model file, as `spn export` writes it, got another kind of safetensors file"
        )
    if notes["format"] not in range(1, FORMAT + 1):
        raise InputError(
            f"{path}: expected a model file of format {FORMAT} or below, got {notes['format']}: written by spn "
            f"{notes.get('version')}, a newer version"
        )
    if missing := sorted(NEEDED - notes.keys()) or [PICTURES] * (PICTURES not in tensors):
        raise InputError(f"{path}: expected the notes of a model file, found no {', '.join(missing)}")
    try:
        return _load(tensors, notes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: its parameters are not valid in this version: {key}: {first['msg']}") from error


def _load(tensors: dict[str, Tensor], notes: Notes) -> Loaded:
    chain = notes["chain"]
    if not isinstance(notes["params"], dict):
        raise InputError(f"expected parameters by section, got {type(notes['params']).__name__}")
    sections = {name: section for name, section in notes["params"].items() if name in OF_CHAIN}
    params = Params.model_validate_json(json.dumps(sections | {"sampling": NOTHING_DONE.model_dump(by_alias=True)}))
    check_references(params)
    params = params.measured({name: tuple(kept) for name, kept in notes["shares"].items()})
    pictures = tensors.pop(PICTURES)
    parts, first_stage = _build(params, chain, tensors, notes)
    actual = _probe(params, chain, parts, first_stage, pictures)
    for name, expected in notes["probe"].items():
        check_probe(f"stage {name}", expected, actual[name])
    labels = sample_labels(len(pictures), params.num_classes(chain))
    for name, part in parts.items():
        check_walk(f"stage {name}", part, pictures, labels)
    return Loaded(params, chain, parts, first_stage, notes)


def _probe(
    params: Params, chain: str, parts: dict[str, Part], first_stage: VqAutoencoder | None, pictures: Tensor
) -> dict[str, list[float]]:
    labels = sample_labels(len(pictures), params.num_classes(chain))
    probe = {name: probe_stage(part, pictures, labels) for name, part in parts.items()}
    if first_stage is not None:
        probe[str(params.codes(chain))] = probe_first_stage(
            first_stage, probe_pictures(params.data.shape, params.data.bits)
        )
    return probe


def _build(
    params: Params, chain: str, tensors: Mapping[str, Tensor], notes: Notes
) -> tuple[dict[str, Part], VqAutoencoder | None]:
    """Build the stages with their weights."""
    weights: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key == PICTURES:  # which a stage may be called like
            continue
        name, _, rest = key.partition("/")
        weights.setdefault(name, {})[rest] = value
    parts = {}
    for plan in params.plans[chain]:
        _check_shapes(params, plan.name, weights.get(plan.name, {}))
        parts[plan.name] = Part(*build_trained(params, plan.name, weights[plan.name], CPU))
    codes = params.codes(chain)
    if codes is None:
        return parts, None
    _check_shapes(params, codes, weights.get(codes, {}))
    return parts, build_first_stage(params, codes, weights[codes], CPU)[1]


def _check_shapes(params: Params, name: str, actual: Mapping[str, Tensor]) -> None:
    """Raise InputError unless weights fit their network; before anything is allocated, as a file may ask for much."""
    stage = build_stage(params.trained_plans[name], params.grid(name).shape)
    with torch.device("meta"):
        expected = {
            key: list(value.shape) for key, value in stage.build_network(params.trained(name)).state_dict().items()
        }
    found = {key: list(value.shape) for key, value in actual.items()}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise InputError(
                f"stage {name}: expected {key} of shape {expected.get(key, 'none')}, got {found.get(key, 'none')}"
            )
