"""The lossless codec: decoding against sampling the same batch in float64, and encoding against decoding."""

import torch

from benchmarks.measure import interleaved
from benchmarks.reference import Scale, build, subscale_stage
from benchmarks.table import Row, Target, faster
from spn.codec.decoder import ImageDecoder
from spn.codec.encoder import encode_images
from spn.config import FamilySection, PixelCnnPpSection, SpnSection
from spn.generation import sample_chain_stage

GROUP = "Lossless codec"


def sections(scale: Scale) -> dict[str, FamilySection]:
    """Return a Subscale Pixel Network with a joint mixture, and PixelCNN++ at its smallest published size."""
    width = 8 if scale.tiny else 64
    spn = SpnSection(
        family="spn", width=width, heads=2, transformer_layers=1, pixelcnn_width=width, pixelcnn_layers=4,
        law="placed_mixture", channel_order="head",
    )  # fmt: skip
    filters = 4 if scale.tiny else 32
    return {"SPN": spn, f"PixelCNN++ 1/{filters}": PixelCnnPpSection(family="pixelcnn_pp", resnets=1, filters=filters)}


def rows(scale: Scale) -> list[Row]:
    """Code RGB images of 32x32, which the network itself has sampled, alone and 16 at a time."""
    return [
        row
        for name, section in sections(scale).items()
        for batch in (1, 16)
        for row in _rows(scale, name, section, batch)
    ]


def _rows(scale: Scale, name: str, section: FamilySection, batch: int) -> list[Row]:
    size = scale.size(32)
    stage = subscale_stage(size, scale_factor=1)
    network = build(section, stage.shape).double().eval().requires_grad_(False)
    parts = [(stage, network)]
    images = sample_chain_stage(stage, network, None, batch, seed=1, temperature=1.0)
    known = torch.zeros(images.shape[:3], dtype=torch.bool)
    stream = encode_images(parts, images, known, None, batch)

    def decode() -> torch.Tensor:
        return ImageDecoder([stream.content], [stream.offset], [batch]).run(parts, images, known, None)

    assert torch.equal(decode(), images)
    seconds = interleaved(
        {
            "encode": lambda: encode_images(parts, images, known, None, batch_size=1),
            "decode": decode,
            "sample": lambda: sample_chain_stage(stage, network, None, batch, seed=1, temperature=1.0),
        },
        scale.repetitions(5),
    )
    parameters = sum(each.numel() for each in network.parameters())
    pictures = f"{name}, {size}x{size} RGB, {batch} at a time"
    kilobytes = images.numel() / 1000
    return [
        faster(
            GROUP,
            f"decoding, {pictures}, against sampling them in float64",
            seconds["decode"],
            seconds["sample"],
            kilobytes,
            "kB/s",
            target=Target(0.5, 0.8),
            note=f"{parameters:,} parameters; kilobytes are those of the pixels; the images come back exactly",
        ),
        faster(
            GROUP,
            f"encoding by whole passes, {pictures}, against decoding",
            seconds["encode"],
            seconds["decode"],
            kilobytes,
            "kB/s",
            target=Target(20, 40) if batch == 1 else None,
            note=f"{parameters:,} parameters; kilobytes are those of the pixels; the images come back exactly",
        ),
    ]
