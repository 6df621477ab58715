"""The networks and data that the benchmarks run on."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spn.config import FamilySection, ImageBartSection, Params, SpnSection, tile
from spn.config.tiling import Order, SliceSelection
from spn.data.hdf5 import SliceFile
from spn.data.layout import Layout, Origin, Split
from spn.data.writing import create_slices
from spn.models import Context, Model, StageShape, build_model
from spn.provenance import stage_recipe
from spn.stages import Stage
from spn.training.trainer import Trainer

CPU = torch.device("cpu")

REFERENCE = SpnSection(
    family="spn", width=128, heads=4, transformer_layers=2, pixelcnn_width=126, pixelcnn_layers=4, embedder_layers=2
)
TINY = SpnSection(
    family="spn", width=8, heads=2, transformer_layers=1, pixelcnn_width=12, pixelcnn_layers=2, embedder_layers=1
)

NUM_SCALES = 3
"""Scales of the diffusion whose steps are timed."""

TINY_BART = ImageBartSection(family="imagebart", width=8, heads=2, encoder_layers=1, decoder_layers=1, residual=True)


@dataclass(frozen=True)
class Scale:
    """The scale of the benchmarks."""

    tiny: bool

    @property
    def section(self) -> SpnSection:
        """The network."""
        return TINY if self.tiny else REFERENCE

    def size(self, full: int) -> int:
        """Shrink a side of an image; powers of two stay powers of two."""
        return max(2, full // 8) if self.tiny else full

    def repetitions(self, full: int) -> int:
        """Return the number of repetitions: one if figures do not matter."""
        return 1 if self.tiny else full


@dataclass(frozen=True)
class Part:
    """The cells of a stage."""

    scale_factor: int
    slices: SliceSelection
    bits: tuple[int, int]
    order: Order = "raster"


def subscale_stage(image_size: int, scale_factor: int) -> Stage:
    """Return the stage that generates all slices, and all 8 bits, of square RGB images; S = 1 has no context."""
    (plan,) = tile("chain", {"stage": Part(scale_factor, "all", (0, 8))}, image_bits=8)
    return Stage(plan, (image_size, image_size, 3))


def decoder_shape(size: int, channels: int = 3, num_levels: int = 256) -> StageShape:
    """Return the shape of a square slice without context."""
    return StageShape(size, size, channels, num_levels, num_cells=0, context_levels=num_levels, num_positions=1)


def scale_shape(size: int, num_levels: int = 256, kept: float = 0.5) -> StageShape:
    """Return the shape of a square grid of codes, conditioned on the scale above, which `kept` of them reach."""
    return StageShape(size, size, 1, num_levels, num_cells=1, context_levels=num_levels, num_positions=1, kept=kept)


def bart_section(scale: Scale) -> ImageBartSection:
    """Return the reverse network of ImageBART, in its residual form."""
    if scale.tiny:
        return TINY_BART
    return TINY_BART.model_copy(update={"width": 128, "heads": 4, "encoder_layers": 2, "decoder_layers": 4})


def scale_context(shape: StageShape, batch: int) -> Context:
    """Return codes of noise as the context of a scale."""
    later = noise((batch, shape.height, shape.width, 1), shape.num_levels)
    return Context(later[:, None], torch.ones(batch, 1).bool(), torch.zeros(batch).long(), noised=later)


def build(section: FamilySection, shape: StageShape, seed: int = 1) -> Model:
    """Build a freshly initialised network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(section, shape)


def randomised(section: FamilySection, shape: StageShape, seed: int = 1) -> Model:
    """Build a network in float64 whose laws depend strongly on everything they see, unlike a fresh network's."""
    model = build(section, shape).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        scale = 1.5 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def no_context(shape: StageShape, batch: int, device: torch.device = CPU) -> Context:
    """Return the empty context of a stage without context."""
    cells = torch.zeros(batch, 0, shape.height, shape.width, shape.channels, dtype=torch.long)
    present = torch.zeros(batch, 0, dtype=torch.bool)
    return Context(cells.to(device), present.to(device), torch.zeros(batch, dtype=torch.long, device=device))


def no_slices(stage: Stage, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return black images, and the meta-position of the last slice, which has the most context."""
    size, shape = stage.plan.scale_factor, stage.shape
    slices = torch.zeros(batch, size, size, shape.height, shape.width, shape.channels, dtype=torch.uint8)
    return slices, stage.positions(stage.targets[-1], batch)


def noise(shape: tuple[int, ...], num_levels: int = 256, seed: int = 1) -> torch.Tensor:
    """Draw levels."""
    return torch.randint(num_levels, shape, generator=torch.Generator().manual_seed(seed))


def slice_file(
    folder: Path, num_images: int, size: int, scale_factor: int, cuts: tuple[int, ...] = (0, 8), channels: int = 3
) -> SliceFile:
    """Write images of noise, and open them."""
    path = folder / f"{num_images}_{size}x{channels}_S{scale_factor}_{len(cuts)}.h5"
    if not path.exists():
        layout = Layout(scale_factor, cuts, (size, size, channels))
        images = noise((num_images, size, size, channels)).to(torch.uint8).numpy()
        counts: dict[Split, int] = {"train": num_images, "validation": 1, "test": 1}
        with create_slices(path, layout, counts, labelled=set()) as writer:
            for split, count in counts.items():
                writer.append(split, np.ascontiguousarray(images[:count]), None)
            writer.finish(Origin("noise", "noise", "", "", "", 0, 0))
    return SliceFile(path)


def trainer(
    folder: Path,
    section: FamilySection,
    size: int,
    scale_factor: int,
    batch_size: int,
    precision: str = "float32",
    device: torch.device = CPU,
    compiled: bool = False,
) -> Trainer:
    """Set up the training of one stage on noise, as `spn train` does."""
    data = slice_file(folder, 64, size, scale_factor)
    params = _params(section, size, scale_factor, batch_size, precision)
    return Trainer(params, "stage", data, stage_recipe(params, "stage", data.digest), device, compiled)


def trainer_of_scale(folder: Path, section: FamilySection, size: int, scale: int, batch_size: int) -> Trainer:
    """Set up the training of one of `NUM_SCALES` scales of a diffusion on a grid of 256 codes, which are noise."""
    data = slice_file(folder, 64, size, 1, channels=1)
    content = _params(section, size, 1, batch_size, "float32").model_dump(mode="json", by_alias=True)
    content["data"]["channels"] = 1
    content["schedules"] = {"geometric": {"name": "geometric", "scales": NUM_SCALES}}
    names = {f"scale{each}": each for each in range(NUM_SCALES, 0, -1)}
    content["stages"] = {
        name: content["stages"]["stage"] | {"diffusion": {"schedule": "geometric", "scale": each}}
        for name, each in names.items()
    }
    content["chains"] = {"chain": {"stages": list(names)}}
    params, name = Params.model_validate_json(json.dumps(content)), f"scale{scale}"
    return Trainer(params, name, data, stage_recipe(params, name, data.digest), CPU)


def _params(section: FamilySection, size: int, scale_factor: int, batch_size: int, precision: str) -> Params:
    training = {
        "steps": 1000,
        "batch_size": batch_size,
        "optimiser": {"name": "adamw", "learning_rate": 0.001},
        "warmup_steps": 0,
        "schedule": "constant",
        "clip_norm": 1.0,
        "ema_decay": 0.99,
        "validate_every": 1000,
        "precision": precision,
    }
    stage = {"scale_factor": scale_factor, "slices": "all", "bits": [0, 8], "training": training}
    stage["model"] = section.model_dump(mode="json")
    data = {"source": "arrays", "name": "noise", "bits": 8, "size": size, "channels": 3, "release": "noise"}
    content = {"seed": 1, "data": data, "stages": {"stage": stage}, "chains": {"chain": {"stages": ["stage"]}}}
    return Params.model_validate_json(json.dumps(content | {"sampling": {"num_images": 1, "seed": 1}}))
