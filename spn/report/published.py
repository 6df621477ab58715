"""Published bits/dim.

Flows, variational auto-encoders and diffusion models report upper bounds, the autoregressive models exact figures.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published figure; `recalled` if its value or attribution was not checked against the publication."""

    model: str
    bits_per_dim: float
    source: str
    year: int
    recalled: bool = False


@dataclass(frozen=True)
class Benchmark:
    """The test images of published figures, and the figures; `num_test_images` is None if we do not know it."""

    title: str
    shape: tuple[int, int, int]
    bits: int
    num_test_images: int | None
    rows: tuple[Published, ...]


SPN = "Menick & Kalchbrenner"

CIFAR10 = Benchmark(
    title="CIFAR-10, 8 bits",
    shape=(32, 32, 3),
    bits=8,
    num_test_images=10_000,
    rows=(
        Published("PixelSNAIL", 2.85, "Chen et al.", 2018, recalled=True),
        Published("PixelCNN++", 2.92, "Salimans et al.", 2017),
        Published("PixelRNN", 3.00, "van den Oord et al.", 2016),
        Published("Gated PixelCNN", 3.03, "van den Oord et al.", 2016),
        Published("VAE with IAF", 3.11, "Kingma et al.", 2016),
        Published("PixelCNN", 3.14, "van den Oord et al.", 2016),
        Published("Real NVP", 3.49, "Dinh et al.", 2016),
        Published("Conv DRAW", 3.58, "Gregor et al.", 2016),
        Published("Deep GMMs", 4.00, "van den Oord & Schrauwen", 2014),
        Published("DRAW", 4.13, "Gregor et al.", 2015),
        Published("NICE", 4.48, "Dinh et al.", 2014),
        Published("Deep Diffusion", 5.40, "Sohl-Dickstein et al.", 2015),
    ),
)

IMAGENET_32 = Benchmark(
    title="ImageNet 32x32, original release, 8 bits",
    shape=(32, 32, 3),
    bits=8,
    num_test_images=49_999,
    rows=(
        Published("i-DODE", 3.69, "Zheng et al.", 2023),
        Published("VDM", 3.72, "Kingma et al.", 2021),
        Published("Image Transformer", 3.77, "Parmar et al.", 2018),
        Published("SPN, decoder alone", 3.79, SPN, 2018, recalled=True),
        Published("PixelSNAIL", 3.80, "Chen et al.", 2018, recalled=True),
        Published("Gated PixelCNN", 3.83, "van den Oord et al.", 2016),
        Published("SPN, subscale", 3.85, SPN, 2018, recalled=True),
        Published("PixelRNN", 3.86, "van den Oord et al.", 2016),
        Published("Parallel Multiscale", 3.95, "Reed et al.", 2017),
        Published("Glow", 4.09, "Kingma & Dhariwal", 2018),
    ),
)

IMAGENET_64 = Benchmark(
    title="ImageNet 64x64, original release, 8 bits",
    shape=(64, 64, 3),
    bits=8,
    num_test_images=49_999,
    rows=(
        Published("TarFlow", 2.99, "Zhai et al.", 2024, recalled=True),
        Published("VDM", 3.40, "Kingma et al.", 2021),
        Published("Perceiver AR", 3.40, "Hawthorne et al.", 2022),
        Published("Sparse Transformer", 3.44, "Child et al.", 2019),
        Published("SPN, decoder alone", 3.52, SPN, 2018, recalled=True),
        Published("PixelSNAIL", 3.52, "Chen et al.", 2018),
        Published("SPN, subscale", 3.53, SPN, 2018, recalled=True),
        Published("Gated PixelCNN", 3.57, "van den Oord et al.", 2016),
        Published("PixelRNN", 3.63, "van den Oord et al.", 2016),
        Published("Parallel Multiscale", 3.70, "Reed et al.", 2017),
        Published("Glow", 3.81, "Kingma & Dhariwal", 2018),
    ),
)

IMAGENET_128 = Benchmark(
    title="ImageNet 128x128, 8 bits",
    shape=(128, 128, 3),
    bits=8,
    num_test_images=None,
    rows=(
        Published("SPN", 3.08, SPN, 2018),
        Published("PixelPyramids", 3.40, "Mahajan & Roth", 2021),
        Published("Parallel Multiscale", 3.55, "Reed et al.", 2017),
    ),
)

IMAGENET_256 = Benchmark(
    title="ImageNet 256x256, 8 bits",
    shape=(256, 256, 3),
    bits=8,
    num_test_images=None,
    rows=(Published("SPN", 2.97, SPN, 2018), Published("SPN, depth upscaling", 3.01, SPN, 2018)),
)

CELEBA_HQ_256 = Benchmark(
    title="CelebA-HQ 256x256, 5 bits",
    shape=(256, 256, 3),
    bits=5,
    num_test_images=None,
    rows=(
        Published("SPN", 0.61, SPN, 2018, recalled=True),
        Published("PixelPyramids", 0.61, "Mahajan & Roth", 2021),
        Published("Glow", 1.03, "Kingma & Dhariwal", 2018),
    ),
)

RELEASES = {
    "imagenet-32-original": IMAGENET_32,
    "imagenet-64-original": IMAGENET_64,
    "imagenet-128": IMAGENET_128,
    "imagenet-256": IMAGENET_256,
    "celeba-hq-256": CELEBA_HQ_256,
}
"""Values of `data.release` with which an `arrays` or `folder` source is compared with published figures.

`-original` is the release made for PixelRNN: no labels, 49,999 validation images, which are the test split here. For
the other three, authors down-sampled public images in their own ways.
"""
