"""The `model` section of a stage: a union on `family`, one class per model family, each a file in `spn/models/`."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, TypeVar, Union

from pydantic import Field

from spn.config.section import Count, CountOrZero, Section

Law: TypeAlias = Literal["softmax", "mixture", "placed_mixture", "dequantised"]
"""Each a file in `spn/laws/`."""

BOUNDS = ("dequantised",)
"""Laws whose figures are upper bounds on bits/dim."""

Family = TypeVar("Family", bound="FamilySection")

FEW = 16
"""Features of a network that is there for what it depends on: so many that rectifiers are not all off."""


class FamilySection(Section):
    """What every family has: the slice embedder, through which context enters, and dropout.

    The papers give none of these numbers but the dropout; all are ours. So are the choices that are open, such as
    `intensity`.
    """

    if TYPE_CHECKING:
        family: str

    embedder_layers: CountOrZero = 2
    """Residual blocks of the slice embedder; used only where a stage has context."""
    embedder_dilation: Literal[1, 2] = 1
    """2 doubles the dilation of the embedder's convolutions from one to the next (1, 2, 4, ... 64, 1, ...), so that
    few of them reach over a whole slice, with no more weights; 1 leaves all of them undilated."""
    relative_cells: bool = False
    """Whether cells of context enter a second time, relative to the levels that the target's known high bits leave;
    used only where they are known."""
    meta_position_units: Count = 8
    """Width of the learned embedding of the meta-position."""
    intensity: Literal["scaled", "embedded"] = "scaled"
    """Levels enter as one number in [-1, 1], or as a learned vector per level."""
    intensity_units: Count = 4
    """Width of that vector."""
    class_units: Count = 16
    """Width of the learned embedding of the class, where the stage is class-conditional and embeds it."""
    law: Law = "softmax"
    """What the outputs are of a sub-pixel: a probability per level, or a mixture of logistics over the levels.
    `placed_mixture` is the same mixture, started narrow and within the levels that known high bits leave (ours);
    `dequantised` trains and evaluates a bound, the density at levels with uniform noise added."""
    mixtures: Count = 10
    """Logistics in a mixture; used only by the laws that are one."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the activations that are set to zero while training."""

    @abstractmethod
    def problem(self, height: int, width: int, channels: int) -> str | None:
        """Say what does not fit together for slices of this shape, as `key: expected, got`."""

    def narrowed(self: Family, channels: int) -> Family:
        """Return a section of the same layers with few features, whose laws depend on the same pixels, for checks."""
        return self

    @property
    def is_bound(self) -> bool:
        """Whether what is evaluated is an upper bound on bits/dim and not the figure itself."""
        return self.law in BOUNDS


class SpnSection(FamilySection):
    """The Subscale Pixel Network: slice embedder, 1D Transformer and Gated PixelCNN.

    The paper gives none of these numbers, and leaves open what `intensity` and `context_enters` choose; all are ours.
    """

    family: Literal["spn"]
    """The Subscale Pixel Network."""
    width: Count
    """Channels of the Transformer and of the slice embedder; a multiple of `heads`."""
    heads: Count
    """Attention heads of the Transformer."""
    transformer_layers: CountOrZero
    """Layers of the Transformer over the pixels of a slice."""
    pixelcnn_width: Count
    """Channels of the Gated PixelCNN; a multiple of the image's channels, which share them equally."""
    pixelcnn_layers: Count
    """Gated layers of the PixelCNN."""
    context_enters: Literal["transformer", "pixelcnn", "both"] = "both"
    """Where the slice embedder's output enters the decoder."""

    def problem(self, height: int, width: int, channels: int) -> str | None:
        """Say what does not fit together for slices of this shape, as `key: expected, got`."""
        if self.pixelcnn_width % channels:
            return f"pixelcnn_width: expected a multiple of the {channels} channels, got {self.pixelcnn_width}"
        if self.width % self.heads:
            return f"width: expected a multiple of the {self.heads} heads, got {self.width}"
        return None

    def narrowed(self: Family, channels: int) -> Family:
        """Return a section of the same layers with few features, whose laws depend on the same pixels, for checks."""
        return self.model_copy(update={"width": FEW, "heads": 1, "pixelcnn_width": FEW * channels})


class GatedPixelCnnSection(FamilySection):
    """The Gated PixelCNN: a vertical and a horizontal stack, with context as a bias of every gate.

    Kernels are 3x3 throughout (NOTE: the paper's first layer is recalled to be larger); the sizes are ours.
    """

    family: Literal["gated_pixelcnn"]
    """The Gated PixelCNN."""
    width: Count
    """Channels of both stacks; a multiple of the image's channels, which share them equally."""
    layers: Count
    """Gated layers."""

    def problem(self, height: int, width: int, channels: int) -> str | None:
        """Say what does not fit together for slices of this shape, as `key: expected, got`."""
        if self.width % channels:
            return f"width: expected a multiple of the {channels} channels, got {self.width}"
        return None

    def narrowed(self: Family, channels: int) -> Family:
        """Return a section of the same layers with few features, whose laws depend on the same pixels, for checks."""
        return self.model_copy(update={"width": FEW * channels})


class PixelCnnPpSection(FamilySection):
    """PixelCNN++: gated residual blocks at three resolutions with short-cuts between them, and a discretised mixture.

    The defaults are the paper's for CIFAR-10. The last three keys are its ablations, and so is every `law` but
    `mixture`.
    """

    family: Literal["pixelcnn_pp"]
    """PixelCNN++."""
    filters: Count = 160
    """Channels of every layer."""
    resnets: Count = 5
    """Gated residual blocks at each resolution on the way up; on the way down one more, but at the lowest."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the activations that are set to zero while training; the default is the paper's."""
    law: Law = "mixture"
    """What the outputs are of a sub-pixel; the default is the paper's."""
    short_cuts: bool = True
    """Without them the way down sees no more than what the lower resolutions kept: of a block of 2x2 pixels, the law of
    one is blind to those before it."""
    downsampling: bool = True
    """Without it all three resolutions are the full one, with as many weights."""

    def problem(self, height: int, width: int, channels: int) -> str | None:
        """Say what does not fit together for slices of this shape, as `key: expected, got`."""
        if self.downsampling and (height % 4 or width % 4):
            return f"downsampling: expected slices whose sides are multiples of 4, got {height}x{width}"
        return None

    def narrowed(self: Family, channels: int) -> Family:
        """Return a section of the same layers with few features, whose laws depend on the same pixels, for checks."""
        return self.model_copy(update={"filters": FEW})


class PixelSnailSection(FamilySection):
    """PixelSNAIL: blocks of gated residual convolutions, each followed by attention over all pixels before.

    NOTE: the sizes are ours.
    """

    family: Literal["pixelsnail"]
    """PixelSNAIL."""
    width: Count
    """Channels of every layer."""
    blocks: Count
    """Blocks of convolutions and attention."""
    resnets: Count = 2
    """Gated residual blocks before each attention."""
    key_width: Count = 16
    """Channels of the attention's keys and queries."""
    value_width: Count = 64
    """Channels of the attention's values."""
    law: Law = "mixture"
    """What the outputs are of a sub-pixel; the default is the paper's."""

    def problem(self, height: int, width: int, channels: int) -> str | None:
        """Say what does not fit together for slices of this shape, as `key: expected, got`."""
        return None

    def narrowed(self: Family, channels: int) -> Family:
        """Return a section of the same layers with few features, whose laws depend on the same pixels, for checks."""
        return self.model_copy(update={"width": FEW, "key_width": FEW, "value_width": FEW})


if TYPE_CHECKING:
    ModelSection: TypeAlias = FamilySection
else:
    ModelSection = Annotated[Union[tuple(FamilySection.__subclasses__())], Field(discriminator="family")]  # noqa: UP007
