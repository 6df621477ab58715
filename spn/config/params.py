"""params.yaml as a whole: every scientific number and nothing else."""

import json
import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from spn.config.data import DataSection
from spn.config.errors import InputError
from spn.config.model import ModelSection
from spn.config.section import Count, Name, Section
from spn.config.tiling import Slices, StagePlan, tile
from spn.config.training import TrainingSection

MAX_VALUES = 100_000
"""Values of a file whose aliases are written out; a few lines of nested aliases can stand for any number."""

SHOWN = 4
"""Mistakes named at once; an alias repeats one mistake in every stage."""


class StageSection(Section):
    """One network: the cells it generates, the model, the training.

    `bits` is a half-open range counted from the most significant bit, which is bit 0: [0, 3] names bits 0, 1 and 2.
    """

    scale_factor: Annotated[int, Field(ge=1, le=16)]
    slices: Slices
    bits: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(le=8)]]
    class_conditional: bool = False
    """Whether the network is told the class of each image; sampled images are given classes too."""
    model: ModelSection
    training: TrainingSection

    @model_validator(mode="after")
    def _names_cells(self) -> "StageSection":
        if self.bits[0] >= self.bits[1]:
            raise ValueError(f"bits {list(self.bits)} name no bit: expected [first, end] with first < end")
        if self.slices == "rest" and self.scale_factor == 1:
            raise ValueError("slices: rest names no slice under scale_factor 1")
        return self


class ChainSection(Section):
    """An ordered list of stages that tiles the slice x bit grid.

    `temperature` divides the logits of the stages it names when they are sampled; 1 elsewhere.
    """

    stages: Annotated[tuple[Name, ...], Field(min_length=1)]
    temperature: dict[Name, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)

    def temperature_of(self, stage: str) -> float:
        """Return what the logits of a stage are divided by when it is sampled."""
        return self.temperature.get(stage, 1.0)


class SamplingSection(Section):
    """How many images every chain samples, and from which seed."""

    num_images: Count
    seed: int
    class_: Annotated[int, Field(ge=0)] | None = Field(default=None, alias="class")
    """The class of all images where stages are class_conditional; without it, image i is of class i mod num_classes."""


class Params(Section):
    """The whole configuration."""

    seed: int
    """Seeds weights, batches and dropout."""
    data: DataSection
    stages: Annotated[dict[Name, StageSection], Field(min_length=1)]
    chains: Annotated[dict[Name, ChainSection], Field(min_length=1)]
    sampling: SamplingSection

    @cached_property
    def plans(self) -> dict[str, tuple[StagePlan, ...]]:
        """The resolved stages of every chain."""
        return {
            name: tuple(
                replace(plan, num_classes=self.data.num_classes if self.stages[plan.name].class_conditional else 0)
                for plan in tile(name, {stage: self.stages[stage] for stage in chain.stages}, self.data.bits)
            )
            for name, chain in self.chains.items()
        }

    @cached_property
    def stage_plans(self) -> dict[str, StagePlan]:
        """Every stage that a chain uses, resolved; a stage used by two chains is one and the same."""
        return {plan.name: plan for plans in self.plans.values() for plan in plans}

    def num_classes(self, chain: str) -> int:
        """Count the classes that the images of a chain have: those of its stages that are told any; 0 if none is."""
        return max(plan.num_classes for plan in self.plans[chain])


def load_params(path: Path) -> Params:
    """Read and validate a params.yaml; raise InputError with one line that names the dotted key."""
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe may wait without end
        raise InputError(f"{path}: expected a readable params file, got something else")
    try:
        text = path.read_text(encoding="utf-8")
        _check_aliases(text)
        raw = YAML(typ="safe", pure=True).load(text)
    except OSError as error:
        raise InputError(f"{path}: expected a readable params file: {error.strerror}") from error
    except (YAMLError, ValueError, LookupError, RecursionError) as error:
        # The constructors of dates, numbers and booleans let their own errors through.
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    try:
        # Strict validation of JSON, unlike that of Python objects, takes a list for a tuple.
        params = Params.model_validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        raise InputError(f"{path}: {_one_line(error, raw)}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a mapping of plain values: {error}") from error
    try:
        _check_references(params)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return params


def params_schema() -> dict[str, Any]:
    """Give the JSON schema of params.yaml, for editors."""
    return Params.model_json_schema()


def _check_aliases(text: str) -> None:
    """Raise ValueError for aliases that stand for too many values; merging them takes memory and time for each."""
    sizes: dict[str, int] = {}
    collections: list[tuple[str | None, int]] = [(None, 0)]
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, CollectionStartEvent):
            collections.append((event.anchor, 1))
            continue
        if isinstance(event, CollectionEndEvent):
            anchor, size = collections.pop()
            sizes |= {anchor: size} if anchor else {}
        else:
            size = sizes.get(event.anchor, 1) if isinstance(event, AliasEvent) else 1
        outer, total = collections.pop()
        if total + size > MAX_VALUES:
            raise ValueError(f"expected at most {MAX_VALUES} values, got more by aliases of aliases")
        collections.append((outer, total + size))


def _one_line(error: ValidationError, raw: Any) -> str:
    problems = []
    for problem in error.errors():
        key = _dotted(problem["loc"], raw)
        if problem["type"] in {"union_tag_invalid", "union_tag_not_found"}:
            key += "." + problem["ctx"]["discriminator"].strip("'")
        says_all = problem["type"] in {"missing", "value_error", "union_tag_invalid", "union_tag_not_found"}
        actual = "" if says_all else f", got {_short(problem['input'])}"
        problems.append(f"{key}: {problem['msg'].removeprefix('Value error, ')}{actual}")
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return " ".join(f"{'; '.join(problems[:SHOWN])}{more}".split())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _dotted(location: tuple[str | int, ...], raw: Any) -> str:
    """Turn pydantic's location into the key a user typed: the tags of unions are not keys."""
    keys = []
    for step, part in enumerate(location):
        is_tag = isinstance(raw, dict) and part not in raw and part in raw.values() and step + 1 < len(location)
        if is_tag or part == "[key]":
            continue
        keys.append(str(part))
        inside = isinstance(raw, dict) and part in raw
        inside |= isinstance(raw, list) and isinstance(part, int) and part < len(raw)
        raw = raw[part] if inside else None
    return ".".join(keys) or "the whole file"


def _check_references(params: Params) -> None:
    """Check what one section says of another, and that every chain is a tiling."""
    height, width, channels = params.data.shape
    for name, stage in params.stages.items():
        if height % stage.scale_factor or width % stage.scale_factor:
            raise InputError(
                f"stages.{name}.scale_factor: expected a divisor of the image size {height}x{width}, "
                f"got {stage.scale_factor}"
            )
        if stage.bits[1] > params.data.bits:
            raise InputError(
                f"stages.{name}.bits: expected an end of at most data.bits = {params.data.bits}, got {stage.bits[1]}"
            )
        if problem := stage.model.problem(height // stage.scale_factor, width // stage.scale_factor, channels):
            raise InputError(f"stages.{name}.model.{problem}")
    _check_classes(params)
    for name, chain in params.chains.items():
        for stage_name in chain.stages:
            if stage_name not in params.stages:
                known = ", ".join(params.stages)
                raise InputError(f"chains.{name}.stages: expected a key of stages ({known}), got {stage_name}")
        if len(set(chain.stages)) < len(chain.stages):
            raise InputError(f"chains.{name}.stages: expected each stage once, got {', '.join(chain.stages)}")
        for stage_name in chain.temperature:
            if stage_name not in chain.stages:
                raise InputError(f"chains.{name}.temperature: expected stages of the chain, got {stage_name}")
    _check_shared_stages(params)


def _check_classes(params: Params) -> None:
    """Check that there are classes where stages are told of them or samples are asked for."""
    num_classes = params.data.num_classes
    told = [name for name, stage in params.stages.items() if stage.class_conditional]
    if told and not num_classes:
        can_state = "num_classes" in type(params.data).model_fields
        needs = "data.num_classes to be stated" if can_state else f"labels, which source {params.data.source} has not"
        raise InputError(f"stages.{told[0]}.class_conditional: expected {needs}, got no classes")
    if (asked := params.sampling.class_) is None:
        return
    if not told:
        raise InputError(f"sampling.class: expected a stage that is class_conditional, got none for class {asked}")
    if asked >= num_classes:
        raise InputError(f"sampling.class: expected one of the classes 0 to {num_classes - 1}, got {asked}")


def _check_shared_stages(params: Params) -> None:
    seen: dict[str, tuple[str, StagePlan]] = {}
    for chain, plans in params.plans.items():
        for plan in plans:
            other, same = seen.setdefault(plan.name, (chain, plan))
            if same != plan:
                raise InputError(
                    f"chains.{chain}.stages: {plan.name} follows other cells here than in chains.{other}; "
                    "a stage is trained once, so give it a name of its own here"
                )
