"""The section of a first stage: the vector-quantised auto-encoder that turns images into grids of codes."""

from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue

from spn.config.section import Count, Section, Whole
from spn.config.training import TrainingSection

Share = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(gt=0)]


def _power_of_two(low: int, high: int, why: str = "") -> tuple[object, ...]:
    """Return the annotations of a power of two between `low` and `high`; `why` explains the highest."""
    powers: list[JsonValue] = [1 << power for power in range(high.bit_length()) if 1 << power >= low]

    def check(value: int) -> int:
        if value not in powers:
            raise ValueError(f"expected a power of two from {low} to {high}{why}, got {value}")
        return value

    return Whole, AfterValidator(check), Field(json_schema_extra={"enum": powers})


class AdversarialSection(Section):
    """The hinge loss against a patch discriminator, with VQGAN's adaptive weight.

    NOTE: the published discriminator has 64 channels, three strided layers and batch norm. Ours is smaller by default,
    and normalises every position by itself, so that the loss of an image does not depend on its batch.
    """

    weight: Weight = 0.1
    """Factor on the adaptive weight, which makes the gradients of both losses equal at the decoder's last layer.
    VQGAN's is 0.8, with which short trainings of small networks lose the image."""
    start: Share = 0.5
    """Share of the training's steps before the discriminator acts or trains."""
    warmup: Share = 0.3
    """Share of the training's steps, from `start` on, over which the weight rises linearly."""
    width: Count = 32
    """Channels of the discriminator's first layer; they double with each of the next layers, at most three times."""
    layers: Annotated[int, Whole, Field(ge=1, le=8)] = 2
    """Strided layers of the discriminator, each of which halves height and width."""


class PerceptualSection(Section):
    """The perceptual loss, by features of VGG16. Nothing is downloaded: the user brings the weights."""

    weights: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """A safetensors file in sources/ with VGG16's convolutions, under torchvision's names (features.0.weight, ...)."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The SHA-256 of that file; another one is refused."""
    weight: Weight = 1.0
    """Factor on the loss; VQGAN's is 1."""


class VqSection(Section):
    """A vector-quantised auto-encoder, the first stage of ImageBART: images become grids of codes, and are decoded.

    The paper states `commitment`, a down-sampling of 16, and code vectors of 256 numbers; all other numbers are ours.
    """

    downsampling: Annotated[int, *_power_of_two(1, 64)]
    """Pixels per code, across and down; must divide height and width. 16 in the paper."""
    codebook: Annotated[int, *_power_of_two(2, 256, ", the most levels that files hold")]
    """Number of codes. NOTE: the paper has 1024 or 16384."""
    code_width: Count = 8
    """Numbers in a code vector; 256 in the paper. Of 8 numbers, small networks use more codes than of 32."""
    width: Count = 32
    """Channels at full resolution; they double with each of the first two down-samplings."""
    blocks: Count = 1
    """Residual blocks at each resolution, in the encoder and in the decoder."""
    commitment: Annotated[float, Field(ge=0)] = 0.25
    """Weight beta of the commitment loss, which keeps the encoder's outputs near their codes."""
    restart_after: Count = 100
    """Steps that a code may stay unused before it restarts at an output of the encoder."""
    adversarial: AdversarialSection | None = None
    """The adversarial loss; none by default."""
    perceptual: PerceptualSection | None = None
    """The perceptual loss; none by default."""

    def problem(self, height: int, width: int) -> str | None:
        """Say which key does not fit images of this size, as `key: expected, got`; None if all do."""
        if height % self.downsampling or width % self.downsampling:
            return f"downsampling: expected a divisor of the images' {height}x{width} pixels, got {self.downsampling}"
        if self.adversarial and (most := min(height, width).bit_length() - 1) < self.adversarial.layers:
            return (
                f"adversarial.layers: expected at most {most} for images of {height}x{width} pixels, "
                f"got {self.adversarial.layers}"
            )
        return None


class FirstStageSection(VqSection):
    """A first stage and its training; its codes are the images of stages that name it in `codes`."""

    training: TrainingSection
    """How the network is trained."""

    @property
    def trials(self) -> tuple[TrainingSection, ...]:
        """None: a first stage has no trials."""
        return ()

    @property
    def trainings(self) -> tuple[TrainingSection, ...]:
        """The trainings that it needs: its only one."""
        return (self.training,)

    @property
    def code_bits(self) -> int:
        """Depth of its codes."""
        return self.codebook.bit_length() - 1
