"""params.yaml as a whole: every scientific number, and nothing else."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError, field_validator, model_validator

from spn.config.captions import Captions, Tokens, captions
from spn.config.data import DataSection
from spn.config.defaults import check_used, resolve
from spn.config.diffusion import DiffusionSection, Noise, ScheduleSection
from spn.config.errors import InputError
from spn.config.first_stage import FirstStageSection
from spn.config.mistakes import describe, did_you_mean, with_line
from spn.config.model import ModelSection
from spn.config.reading import read_document, tell_of_aliases
from spn.config.references import check_references
from spn.config.section import Count, CountOrZero, Name, Section, Seed, Whole
from spn.config.tiling import (
    Order,
    SliceSelection,
    StageKind,
    StagePlan,
    kind_of_cells,
    target_slices,
    tile,
)
from spn.config.training import TrainingSection


def _as_order(value: Any) -> Any:
    """Turn the lists of an order into tuples; raise ValueError, once and not for each kind of value that it may be."""
    if isinstance(value, list | tuple) and all(map(_is_slice, value)):
        return tuple(map(tuple, value))
    if isinstance(value, str) and value in _NAMED_ORDERS:
        return value
    raise ValueError(
        f"expected {', '.join(_NAMED_ORDERS)} or a list of slices [row, column], got {value!r:.60}"
        f"{did_you_mean(value, _NAMED_ORDERS)}"
    )


def _is_slice(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(type(each) is int for each in value)


View = Literal["identity", "flip_horizontal", "flip_vertical", "rotate", "transpose"]

_NAMED_ORDERS: tuple[str, ...] = ("raster", "diagonal")


class StageSection(Section):
    """One network: the cells that it generates, its model and its training.

    `bits` is a half-open range counted from the most significant bit, bit 0: [0, 3] names bits 0, 1 and 2.
    """

    scale_factor: Annotated[int, Whole, Field(ge=1, le=16)]
    """S: the image is cut into S x S interleaved slices; 1 leaves it whole."""
    slices: SliceSelection
    """The slices to generate: the first, which is (0, 0), the rest, or all."""
    bits: tuple[Annotated[int, Whole, Field(ge=0)], Annotated[int, Whole, Field(le=8)]]
    """The bits to generate: first and end, counted from the most significant."""
    order: Annotated[Order, BeforeValidator(_as_order)] = Field(default="raster", exclude_if=lambda it: it == "raster")
    """The order of the slices: `raster` (the paper's), `diagonal` (the diagonals of the grid of slices one after
    another, from the main one to the right and around; for scale_factor 2: (0,0), (1,1), (0,1), (1,0)), or a list of
    all S x S slices [row, column], of which [0, 0] is the first (ours)."""
    class_conditional: bool = False
    """Whether the network is conditioned on the class of each image."""
    captioned: bool = False
    """Whether the network is conditioned on a caption of each image: the words of its class's name."""
    codes: Name | None = None
    """The first stage whose codes are generated; by default the stage generates pixels."""
    diffusion: DiffusionSection | None = None
    """Makes the stage a scale of a diffusion, as in ImageBART."""
    model: ModelSection
    """The network, by its `family`."""
    training: TrainingSection
    """How the network is trained."""
    trials: tuple[TrainingSection, ...] = ()
    """At least two changes of `training`, or none: all are trained, and the best on the validation images is taken."""

    @property
    def kind(self) -> StageKind:
        """The file in `spn/stages/` that cuts its targets and contexts."""
        return "scale" if self.diffusion else kind_of_cells(target_slices(self.slices, self.scale_factor, self.order))

    @property
    def conditioning(self) -> Literal["class", "caption", "none"]:
        """What the network is conditioned on, besides cells."""
        return "class" if self.class_conditional else "caption" if self.captioned else "none"

    @property
    def trainings(self) -> tuple[TrainingSection, ...]:
        """The trainings that the stage needs: its trials, or its only one."""
        return self.trials or (self.training,)

    def changes(self, trial: int) -> dict[str, Any]:
        """Return what a trial changes: dotted keys of `training`, with their values in the trial."""
        before, after = (_dotted(each.model_dump(mode="json")) for each in (self.training, self.trials[trial]))
        return {key: value for key, value in after.items() if key not in before or before[key] != value}

    def trial_text(self, trial: int, remark: str = "") -> str:
        """Return "trial 2 of 3" and a remark, then what the trial changes."""
        changes = ", ".join(f"{key} {value}" for key, value in self.changes(trial).items())
        return f"trial {trial + 1} of {len(self.trials)}{remark}: {changes or 'training as it is'}"

    @field_validator("trials")
    @classmethod
    def _differ(cls, trials: tuple[TrainingSection, ...]) -> tuple[TrainingSection, ...]:
        if len(trials) == 1:
            raise ValueError("expected at least two trials, or none, got one")
        for number, trial in enumerate(trials):
            if trial in trials[:number]:
                raise ValueError(f"expected trials that differ, got the same for {trials.index(trial)} and {number}")
        return trials

    @model_validator(mode="after")
    def _names_cells(self) -> "StageSection":
        if self.bits[0] >= self.bits[1]:
            raise ValueError(f"bits {list(self.bits)} name no bit: expected [first, end] with first < end")
        if self.slices == "rest" and self.scale_factor == 1:
            raise ValueError("slices: rest names no slice under scale_factor 1")
        if self.class_conditional and self.captioned:
            raise ValueError("expected class_conditional or captioned, got both")
        if (self.diffusion or self.codes) and self.scale_factor > 1:
            raise ValueError(f"expected scale_factor 1 of codes and diffusions, got {self.scale_factor}")
        return self


class ChainSection(Section):
    """An ordered list of stages that tiles the slice x bit grid."""

    stages: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Keys of `stages`, in the order of generation."""
    temperature: dict[Name, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Sampling temperature by stage, which divides its logits; 1 for stages not named."""
    top_k: dict[Name, Count] = Field(default_factory=dict)
    """Number of most probable levels to sample from, by stage; stages not named sample from all."""

    views: tuple[View, ...] = Field(default=(), exclude_if=lambda it: not it)
    """At least two views of an image, or none: a mixture of orders, whose law is the mean over views of the chain's law
    of the view. `rotate` is by 180 degrees, `transpose` needs square images. By default there is one order."""

    def temperature_of(self, stage: str) -> float:
        """Return the sampling temperature of a stage, which divides its logits."""
        return self.temperature.get(stage, 1.0)


class SamplingSection(Section):
    """Sampling: how many images, from which seed, and of which class."""

    num_images: Count
    """Number of images to sample from every chain."""
    seed: Seed
    """Seeds the samples, and nothing else."""
    class_: CountOrZero | None = Field(default=None, alias="class")
    """The class of all images if stages are conditioned on it; by default image i is of class i mod num_classes."""
    caption: Annotated[str, Field(pattern=r"[^\W_]")] | None = None
    """The caption of all images if stages are captioned: words of class names."""


class CompletionSection(Section):
    """What every chain draws of the first test images, given halves of them, slice (0,0), or the high bits."""

    masks: Annotated[tuple[Literal["upper", "lower", "left", "right"], ...], Field(min_length=1)] = ("upper", "lower")
    """The halves to hide, each by itself."""
    num_images: Count = 8
    """Number of images."""
    draws: Count = 2
    """Results for each image and each part that is given."""
    repeats: Count = 2
    """Times that each scale of a diffusion but the last is drawn where a half is hidden (ours)."""
    seed: Seed = 1
    """Seeds the results, and nothing else."""


class CodecSection(Section):
    """Lossless coding of the first test images by every chain of pixels with an exact likelihood."""

    num_images: Count = 64
    """Number of images, or all test images if there are fewer."""


class ExportSection(Section):
    """The model files of all chains."""

    weights: Literal["float32", "bfloat16", "float16"] = "float32"
    """The type of the weights. Half precision takes half the space; the figures are then those of the rounded weights,
    evaluated again over the whole test split, with the difference beside them."""


class Grid(NamedTuple):
    """What a chain generates: an image's shape (height, width, channels), and the bits of its levels."""

    shape: tuple[int, int, int]
    bits: int


class Params(Section):
    """The whole configuration, with every stage complete."""

    seed: Seed
    """Seeds weights, batches and dropout."""
    data: DataSection
    """The images, by their `source`."""
    first_stages: dict[Name, FirstStageSection] = Field(default_factory=dict)
    """Auto-encoders that turn images into codes, by name."""
    schedules: dict[Name, ScheduleSection] = Field(default_factory=dict)
    """Schedules of diffusions, by name."""
    stages: Annotated[dict[Name, StageSection], Field(min_length=1)]
    """The networks, by name; each states what differs from `defaults`."""
    chains: Annotated[dict[Name, ChainSection], Field(min_length=1)]
    """Ways to generate an image: lists of stages, by name."""
    sampling: SamplingSection
    """Samples of every chain."""
    completion: CompletionSection | None = None
    """What every chain draws given a part of test images; by default nothing."""
    codec: CodecSection | None = None
    """The size of coded test images, beside their likelihood; by default none are coded."""
    export: ExportSection = ExportSection()
    """How trained chains are written as model files."""
    _measured: dict[str, tuple[float, ...]] = PrivateAttr(default_factory=dict)
    """The measured shares of stages with a spaced schedule."""

    def measured(self, shares: Mapping[str, tuple[float, ...]]) -> "Params":
        """Return these parameters with the shares of stages with a spaced schedule, which were measured."""
        copy = Params.model_construct(**dict(self))
        copy._measured = {**self._measured, **shares}
        return copy

    @property
    def shares(self) -> dict[str, tuple[float, ...]]:
        """The measured shares of stages with a spaced schedule."""
        return dict(self._measured)

    def grid(self, stage: str) -> Grid:
        """Return what a stage generates, or a first stage reconstructs: the images of the data, or codes."""
        return self.grid_of_codes(self.stages[stage].codes if stage in self.stages else None)

    def grid_of_codes(self, codes: str | None) -> Grid:
        """Return what the codes of a first stage are, or the images of the data if it is None."""
        if codes is None:
            return Grid(self.data.shape, self.data.bits)
        section, (height, width, _) = self.first_stages[codes], self.data.shape
        return Grid((height // section.downsampling, width // section.downsampling, 1), section.code_bits)

    def codes(self, chain: str) -> str | None:
        """Return the first stage whose codes a chain generates; None for a chain of pixels."""
        return self.stages[self.chains[chain].stages[0]].codes

    @cached_property
    def plans(self) -> dict[str, tuple[StagePlan, ...]]:
        """The resolved stages of every chain."""
        return {
            name: tuple(
                self._conditioned(plan)
                for plan in tile(
                    name,
                    {stage: self.stages[stage] for stage in chain.stages},
                    self.grid_of_codes(self.codes(name)).bits,
                    self._noises,
                )
            )
            for name, chain in self.chains.items()
        }

    def _conditioned(self, plan: StagePlan) -> StagePlan:
        conditioning = self.stages[plan.name].conditioning
        of_classes = self.captions.of_classes if conditioning == "caption" else ()
        return replace(plan, num_classes=0 if conditioning == "none" else self.data.num_classes, captions=of_classes)

    @cached_property
    def captions(self) -> Captions:
        """The captions of the data's classes."""
        return captions(self.data.class_names)

    def label_of(self, chain: str, caption: str) -> int | Tokens:
        """Return the class that a caption names, or else its tokens, for a chain that is conditioned on them.

        Raises InputError if no stage of the chain is, if the caption has words that no class's name has, or if a stage
        is conditioned on the class, and there is none of this name.
        """
        conditionings = {stage: self.stages[stage].conditioning for stage in self.chains[chain].stages}
        if set(conditionings.values()) == {"none"}:
            raise InputError(f"expected a chain with a stage that is captioned, got {chain}")
        if not self.data.class_names:
            raise InputError(f"expected data.class_names to be stated, got no names for {caption}")
        tokens = self.captions.tokens(caption)
        if tokens in self.captions.of_classes:
            return self.captions.of_classes.index(tokens)
        for stage, conditioning in conditionings.items():
            if conditioning == "class":
                names = ", ".join(self.data.class_names)
                raise InputError(f"expected a class ({names}), because {stage} is class_conditional, got {caption}")
        return tokens

    @cached_property
    def _noises(self) -> dict[str, Noise]:
        """The stages that are scales of a diffusion."""
        return {
            name: self._noise(name, stage.diffusion)
            for name, stage in self.stages.items()
            if stage.diffusion is not None
        }

    def _noise(self, stage: str, diffusion: DiffusionSection) -> Noise:
        schedule = self.schedules[diffusion.schedule]
        is_measured = schedule.name != "spaced" or stage in self._measured
        kept = self._measured.get(stage, schedule.kept)
        return Noise(diffusion.scale, kept, diffusion.objective, diffusion.draws, is_measured)

    @cached_property
    def stage_plans(self) -> dict[str, StagePlan]:
        """Every stage that a chain uses, resolved; chains that use the same stage share it."""
        return {plan.name: plan for plans in self.plans.values() for plan in plans}

    @cached_property
    def first_stage_plans(self) -> dict[str, StagePlan]:
        """Every first stage that a stage of a chain uses, as a plan over all bits of whole images."""
        used = dict.fromkeys(codes for name in self.stage_plans if (codes := self.stages[name].codes))
        bits = self.data.bits
        return {name: StagePlan(name, 1, bits, (0, bits), ((0, 0),), ((0,),), kind="reconstruction") for name in used}

    @cached_property
    def trained_plans(self) -> dict[str, StagePlan]:
        """Every network that is trained: first stages, then stages."""
        return self.first_stage_plans | self.stage_plans

    def trained(self, name: str) -> FirstStageSection | StageSection:
        """Return the section of a network that is trained: of a first stage, or of a stage."""
        return self.first_stages.get(name) or self.stages[name]

    def code_cuts(self, name: str) -> tuple[int, ...]:
        """Return where the bits of a first stage's codes are cut: wherever one of their stages cuts."""
        plans = (plan for stage, plan in self.stage_plans.items() if self.stages[stage].codes == name)
        return tuple(sorted({cut for plan in plans for cut in plan.cuts}))

    @cached_property
    def cuts(self) -> dict[int, tuple[int, ...]]:
        """For each scale factor of a stage, where the bits of its slices are cut: wherever one of its stages cuts."""
        plans = [
            *(plan for name, plan in self.stage_plans.items() if self.stages[name].codes is None),
            *self.first_stage_plans.values(),
        ]
        return {
            size: tuple(sorted({cut for plan in plans if plan.scale_factor == size for cut in plan.cuts}))
            for size in sorted({plan.scale_factor for plan in plans})
        }

    def with_trial(self, stage: str, trial: int) -> "Params":
        """Return these parameters with a trial as the only training of a stage."""
        section = self.stages[stage]
        changed = section.model_copy(update={"training": section.trials[trial], "trials": ()})
        return self.model_copy(update={"stages": self.stages | {stage: changed}})

    def is_bound(self, stage: str) -> bool:
        """Tell whether evaluation gives an upper bound on a stage's nats: that of its law, or of a diffusion."""
        noise = self.stage_plans[stage].noise
        return self.stages[stage].model.is_bound or (noise is not None and noise.num_scales > 1)

    def is_completed(self, chain: str) -> bool:
        """Tell whether a chain draws the rest of test images: if params.yaml asks for it, and it has one order."""
        return self.completion is not None and not self.chains[chain].views

    def is_coded(self, chain: str) -> bool:
        """Tell whether a chain codes test images: if params.yaml asks for it, and the chain can without loss."""
        section = self.chains[chain]
        is_exact = self.codes(chain) is None and not any(map(self.is_bound, section.stages))
        return self.codec is not None and is_exact and not section.views

    def num_classes(self, chain: str) -> int:
        """Return the number of classes of a chain's images; 0 if none of its stages is conditioned on them."""
        return max(plan.num_classes for plan in self.plans[chain])


def load_params(path: Path) -> Params:
    """Read and validate a params.yaml; raise InputError with one line that names the dotted key and its line.

    Stages are completed from `defaults`. YAML aliases are accepted, with a note on stderr.
    """
    document = read_document(path)
    try:
        # Strict validation of JSON, unlike that of Python objects, takes a list for a tuple.
        params = Params.model_validate_json(json.dumps(resolve(document.values)))
        check_used(document.values)
        check_references(params)
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error, document, _whole_schema())}") from error
    except InputError as error:
        raise InputError(f"{path}: {with_line(str(error), document)}") from error
    tell_of_aliases(path, document)
    return params


def params_schema() -> dict[str, Any]:
    """Return the JSON schema of params.yaml, for editors.

    It requires no key of a stage, because `defaults` may have it.
    """
    schema = _whole_schema()
    _make_partial(schema, schema["$defs"]["StageSection"])
    return schema


def _dotted(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a section to dotted keys."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _whole_schema() -> dict[str, Any]:
    """Return the schema of a file with complete stages and optional `defaults`."""
    schema = Params.model_json_schema()
    shared = {
        "$ref": "#/$defs/StageSection",
        "description": "Keys that stages share. A stage states what differs, and the two are merged key by key; a "
        "stage with another `model.family` or `training.optimiser.name` takes nothing from that section.",
    }
    schema["properties"] = {"seed": schema["properties"]["seed"], "defaults": shared} | schema["properties"]
    return schema


def _make_partial(schema: dict[str, Any], section: dict[str, Any]) -> None:
    """Require no key of a section or its inner sections; without its tag, a section may match several kinds."""
    section.pop("required", None)
    for value in section["properties"].values():
        if value.pop("discriminator", None):
            value["anyOf"] = value.pop("oneOf")
        for inner in [value, *value.get("anyOf", [])]:
            if "$ref" in inner:
                _make_partial(schema, schema["$defs"][inner["$ref"].removeprefix("#/$defs/")])
