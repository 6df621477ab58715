"""The `model` section of a stage: a union on `family`, one class per model family."""

from typing import Annotated, Literal

from pydantic import Field

from spn.config.section import Count, Section


class SpnSection(Section):
    """The Subscale Pixel Network: slice embedder, 1D Transformer and Gated PixelCNN.

    The paper gives none of these numbers, and leaves open what `intensity` and `context_enters` choose; all are ours.
    """

    family: Literal["spn"]
    width: Count
    """Channels of the Transformer and of the slice embedder; a multiple of `heads`."""
    heads: Count
    transformer_layers: Annotated[int, Field(ge=0)]
    pixelcnn_width: Count
    """Channels of the Gated PixelCNN; a multiple of the image's channels, which share them equally."""
    pixelcnn_layers: Count
    embedder_layers: Annotated[int, Field(ge=0)] = 2
    """Residual blocks of the slice embedder; used only where a stage has context."""
    meta_position_units: Count = 8
    """Width of the learned embedding of the meta-position."""
    intensity: Literal["scaled", "embedded"] = "scaled"
    """Levels enter the networks as one number in [-1, 1], or as a learned vector per level."""
    intensity_units: Count = 4
    """Width of that vector."""
    context_enters: Literal["transformer", "pixelcnn", "both"] = "both"
    """Where the slice embedder's output enters the decoder."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def problem(self, channels: int) -> str | None:
        """Say what does not fit together for images of so many channels, as `key: expected, got`."""
        if self.pixelcnn_width % channels:
            return f"pixelcnn_width: expected a multiple of the {channels} channels, got {self.pixelcnn_width}"
        if self.width % self.heads:
            return f"width: expected a multiple of the {self.heads} heads, got {self.width}"
        return None


ModelSection = SpnSection
"""Becomes a union with the discriminator `family` as soon as there is a second family."""
