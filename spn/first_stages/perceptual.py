"""A perceptual loss: the distance of features of VGG16, whose weights the user brings; nothing is ever downloaded.

Features of both images after the last convolution of each of five resolutions are scaled to length one at every
position; the loss is their mean squared distance, added up over the resolutions. NOTE: LPIPS (Zhang et al. 2018), which
VQGAN takes, weights channels with learned weights; here they count alike.
"""

import hashlib
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor
from torch.nn import functional as F

from spn.config import InputError
from spn.config.first_stage import PerceptualSection
from spn.paths import SOURCES
from spn.shapes import PerImage, Values

Weights = dict[str, Tensor]

BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""The numbers of VGG16's convolutions (Simonyan and Zisserman 2015, configuration D), by resolution; torchvision's."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's RGB in [0, 1], which the published weights expect."""


class Perceptual:
    """The features of a fixed network. It is no module, so that neither checkpoints nor averages have its weights."""

    def __init__(self, section: PerceptualSection) -> None:
        self.section = section
        self._weights: Weights = {}

    def distance(self, values: Values, others: Values) -> PerImage:
        """Return the distance of images in [-1, 1]; grey ones are seen as RGB. Raises InputError for bad weights."""
        if not self._weights:
            self._weights = load_weights(SOURCES / self.section.weights, self.section.sha256)
        if next(iter(self._weights.values())).device != values.device:
            self._weights = {name: weight.to(values.device) for name, weight in self._weights.items()}
        images = torch.cat((values, others)).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
        mean, deviation = (images.new_tensor(each).view(3, 1, 1) for each in (MEAN, DEVIATION))
        features = ((images + 1) / 2 - mean) / deviation
        total = values.new_zeros(len(values))
        for number, block in enumerate(BLOCKS):
            features = self._block(features, block, is_pooled=number > 0)
            ours, theirs = F.normalize(features).chunk(2)
            total = total + (ours - theirs).square().sum(1).mean((1, 2))
        return total

    def _block(
        self, features: Float[Tensor, "batch channel height width"], block: tuple[int, ...], is_pooled: bool
    ) -> Float[Tensor, "batch feature row column"]:
        if is_pooled and min(features.shape[2:]) > 1:
            features = F.max_pool2d(features, 2)
        for number in block:
            weight, bias = (
                self._weights[f"features.{number}.{name}"].to(features.dtype) for name in ("weight", "bias")
            )
            features = F.relu(F.conv2d(features, weight, bias, padding=1))
        return features


def load_weights(path: Path, sha256: str) -> Weights:
    """Read VGG16's convolutions from a safetensors file with torchvision's names.

    Raises InputError if the file is missing, has another digest, or lacks a convolution.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected the weights of the perceptual loss: {error.strerror}") from error
    if (actual := hashlib.sha256(content).hexdigest()) != sha256:
        raise InputError(f"{path}: expected a file of SHA-256 {sha256}, as params.yaml says, got {actual}")
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise InputError(f"{path}: expected a safetensors file, got another: {error}") from error
    names = [f"features.{number}.{name}" for block in BLOCKS for number in block for name in ("weight", "bias")]
    if missing := [name for name in names if name not in tensors]:
        raise InputError(f"{path}: expected VGG16's {missing[0]}, found {', '.join(sorted(tensors)[:3])} and others")
    return {name: tensors[name] for name in names}
