"""The `model` section of a stage: a union on `family`, one class per model family, each a file in `spn/models/`."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias, TypeVar, Union

from pydantic import Field

from spn.config.section import Count, CountOrZero, Section

Law: TypeAlias = Literal["softmax", "mixture", "placed_mixture", "dequantised"]
"""Names of laws, each a file in `spn/laws/`."""

BOUNDS = ("dequantised",)
"""Laws whose figures are upper bounds on bits/dim."""

Family = TypeVar("Family", bound="FamilySection")

ChannelOrder: TypeAlias = Literal["masks", "head"]

FEW = 16
"""Width of a network built only to see what it depends on: enough that some rectifiers are always on."""


class FamilySection(Section):
    """The keys of every family: the law, and dropout, which the papers state."""

    if TYPE_CHECKING:
        family: str
    reads_captions: ClassVar[bool] = False
    """Whether the network can be conditioned on a sequence of words."""

    law: Law = "softmax"
    """Distribution of a sub-pixel: `softmax` over its levels, or a discretised `mixture` of logistics. `placed_mixture`
    is that mixture, initialised narrow and within the levels that the known high bits leave (ours); `dequantised`
    trains and evaluates a bound, the mixture's density at levels with uniform noise."""
    mixtures: Count = 10
    """Number of logistics in a mixture; unused by other laws."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout rate."""

    @abstractmethod
    def problem(self, height: int, width: int, channels: int) -> str | None:
        """Say which key does not fit slices of this shape, as `key: expected, got`; None if all do."""

    def narrowed(self: Family, channels: int) -> Family:
        """Return a section of the same layers with few features, whose laws depend on the same pixels, for checks."""
        return self

    @property
    def takes_any_size(self) -> bool:
        """Whether a trained network takes slices of any size: whether it is made of convolutions alone."""
        return False

    @property
    def is_bound(self) -> bool:
        """Whether evaluation gives an upper bound on bits/dim instead of the exact figure."""
        return self.law in BOUNDS


class SliceEmbedderSection(FamilySection):
    """The keys of families with a slice embedder, through which context enters.

    All numbers here are ours, and so are open choices such as `intensity`.
    """

    embedder_layers: CountOrZero = 2
    """Residual blocks of the slice embedder; used only if a stage has context."""
    embedder_dilation: Literal[1, 2] = 1
    """2 doubles the dilation from each of the embedder's convolutions to the next (1, 2, 4, ... 64, 1, ...), so that a
    few of them cover a whole slice with the same number of weights; 1 means no dilation."""
    relative_cells: bool = False
    """Whether cells of context are input a second time, relative to the levels that the target's known high bits leave;
    unused if no high bits are known."""
    meta_position_units: Count = 8
    """Width of the learned embedding of the meta-position."""
    intensity: Literal["scaled", "embedded"] = "scaled"
    """`scaled`: a level enters as one number in [-1, 1]; `embedded`: as a learned vector."""
    intensity_units: Count = 4
    """Width of that vector."""
    class_units: Count = 16
    """Width of the learned embedding of the class, if the stage is class-conditional and embeds it."""


class SpnSection(SliceEmbedderSection):
    """The Subscale Pixel Network: slice embedder, 1D Transformer and Gated PixelCNN.

    The paper states none of these numbers, and leaves `intensity` and `context_enters` open; all values are ours.
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
    """Channels of the Gated PixelCNN; a multiple of the image's channels, if masks divide them among these."""
    pixelcnn_layers: Count
    """Gated layers of the PixelCNN."""
    context_enters: Literal["transformer", "pixelcnn", "both"] = "both"
    """Where the slice embedder's output enters the decoder."""
    channel_order: ChannelOrder = "masks"
    """What keeps the order of a pixel's channels: `masks` in every layer (the paper's), or the `head` alone, as in
    PixelCNN++: layers see no channel of the pixel, and a mixture has one indicator for all channels (ours)."""

    def problem(self, height: int, width: int, channels: int) -> str | None:
        """Say what does not fit together for slices of this shape, as `key: expected, got`."""
        if self.channel_order == "masks" and self.pixelcnn_width % channels:
            return f"pixelcnn_width: expected a multiple of the {channels} channels, got {self.pixelcnn_width}"
        if self.width % self.heads:
            return f"width: expected a multiple of the {self.heads} heads, got {self.width}"
        return None

    def narrowed(self: Family, channels: int) -> Family:
        """Return a section of the same layers with few features, whose laws depend on the same pixels, for checks."""
        return self.model_copy(update={"width": FEW, "heads": 1, "pixelcnn_width": FEW * channels})


class GatedPixelCnnSection(SliceEmbedderSection):
    """The Gated PixelCNN: a vertical and a horizontal stack, with context as a bias of every gate.

    Kernels are 3x3 throughout (NOTE: the paper's first layer is recalled to be larger); the sizes are ours.
    """

    family: Literal["gated_pixelcnn"]
    """The Gated PixelCNN."""
    width: Count
    """Channels of both stacks; a multiple of the image's channels, if masks divide them among these."""
    layers: Count
    """Gated layers."""
    channel_order: ChannelOrder = "masks"
    """What keeps the order of a pixel's channels: `masks` in every layer (the paper's), or the `head` alone, as in
    PixelCNN++: layers see no channel of the pixel, and a mixture has one indicator for all channels (ours)."""

    def problem(self, height: int, width: int, channels: int) -> str | None:
        """Say what does not fit together for slices of this shape, as `key: expected, got`."""
        if self.channel_order == "masks" and self.width % channels:
            return f"width: expected a multiple of the {channels} channels, got {self.width}"
        return None

    @property
    def takes_any_size(self) -> bool:
        """Whether a trained network takes slices of any size; it does."""
        return True

    def narrowed(self: Family, channels: int) -> Family:
        """Return a section of the same layers with few features, whose laws depend on the same pixels, for checks."""
        return self.model_copy(update={"width": FEW * channels})


class PixelCnnPpSection(SliceEmbedderSection):
    """PixelCNN++: gated residual blocks at three resolutions with short-cuts between them, and a discretised mixture.

    The defaults are the paper's for CIFAR-10. `short_cuts: false`, `downsampling: false`, and any `law` but `mixture`
    are its ablations.
    """

    family: Literal["pixelcnn_pp"]
    """PixelCNN++."""
    filters: Count = 160
    """Channels of every layer."""
    resnets: Count = 5
    """Gated residual blocks at each resolution on the way up; on the way down one more, except at the lowest."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Dropout rate; the default is the paper's."""
    law: Law = "mixture"
    """Distribution of a sub-pixel; the default is the paper's."""
    short_cuts: bool = True
    """Short-cuts from the way up to the way down. Without them, information passes only through the lowest resolution,
    and within a block of 2x2 pixels laws do not see earlier pixels."""
    downsampling: bool = True
    """Whether the second and third resolutions are lower; if not, all are the full one, with as many weights."""

    def problem(self, height: int, width: int, channels: int) -> str | None:
        """Say what does not fit together for slices of this shape, as `key: expected, got`."""
        if self.downsampling and (height % 4 or width % 4):
            return f"downsampling: expected slices whose sides are multiples of 4, got {height}x{width}"
        return None

    @property
    def takes_any_size(self) -> bool:
        """Whether a trained network takes slices of any size; it does."""
        return True

    def narrowed(self: Family, channels: int) -> Family:
        """Return a section of the same layers with few features, whose laws depend on the same pixels, for checks."""
        return self.model_copy(update={"filters": FEW})


class PixelSnailSection(SliceEmbedderSection):
    """PixelSNAIL: blocks of gated residual convolutions, each followed by attention over all earlier pixels.

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
    """Distribution of a sub-pixel; the default is the paper's."""

    def problem(self, height: int, width: int, channels: int) -> str | None:
        """Say what does not fit together for slices of this shape, as `key: expected, got`."""
        return None

    def narrowed(self: Family, channels: int) -> Family:
        """Return a section of the same layers with few features, whose laws depend on the same pixels, for checks."""
        return self.model_copy(update={"width": FEW, "key_width": FEW, "value_width": FEW})


class ImageBartSection(FamilySection):
    """The reverse network of ImageBART: an encoder of the context, and a causal decoder that attends to its outputs.

    Cells and levels are categories, each with a learned embedding of its own; so there are no keys of the slice
    embedder or of `intensity`. Without cells of context there is only the decoder. NOTE: the sizes are ours.
    """

    reads_captions: ClassVar[bool] = True
    family: Literal["imagebart"]
    """ImageBART."""
    width: Count
    """Channels of encoder and decoder; a multiple of `heads`."""
    heads: Count
    """Attention heads."""
    decoder_layers: Count
    """Layers of the decoder: causal self-attention, attention to the encoder's outputs, and a hidden layer."""
    encoder_layers: Count = 2
    """Layers of the encoder: self-attention in both directions, and a hidden layer; unused without context."""
    aligned_context: bool = False
    """Whether the encoder's output at a pixel is also added to the decoder's token that predicts this pixel, so that
    attention need not learn which of them belong together (ours)."""
    residual: bool = False
    """Whether laws are multiplied by the probabilities that the forward process of a diffusion gives the target if only
    its noised version is known (the paper's residual form); without effect on a stage that is not a scale of a
    diffusion."""

    def problem(self, height: int, width: int, channels: int) -> str | None:
        """Say what does not fit together for slices of this shape, as `key: expected, got`."""
        if self.width % self.heads:
            return f"width: expected a multiple of the {self.heads} heads, got {self.width}"
        return None

    def narrowed(self: Family, channels: int) -> Family:
        """Return a section of the same layers with few features, whose laws depend on the same pixels, for checks."""
        return self.model_copy(update={"width": FEW, "heads": 1})


def _families(section: type[FamilySection]) -> tuple[type[FamilySection], ...]:
    """List the sections of families, which have no subclasses."""
    kinds = section.__subclasses__()
    return tuple(family for kind in kinds for family in _families(kind)) if kinds else (section,)


if TYPE_CHECKING:
    ModelSection: TypeAlias = FamilySection
else:
    ModelSection = Annotated[Union[_families(FamilySection)], Field(discriminator="family")]  # noqa: UP007
