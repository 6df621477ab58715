"""Networks whose work and memory are counted, each with its loss."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.common_snail import CommonPixelSnail
from benchmarks.common_style import CommonDecoder
from benchmarks.kept import Problem
from benchmarks.reference import decoder_shape, no_slices, subscale_stage
from spn.config import SpnSection
from spn.layers import recompute_layers
from spn.models import build_model


def one_slice(section: SpnSection, image_size: int, scale_factor: int, recompute: bool = False) -> Problem:
    """Use one slice of an image with the slices before it as context, or with S = 1 the full image."""
    stage = subscale_stage(image_size, scale_factor)

    def problem(batch: int) -> tuple[nn.Module, Callable[[], Tensor]]:
        model = build_model(section, stage.shape)
        if recompute:
            recompute_layers(model)
        slices, positions = no_slices(stage, batch)
        return model, lambda: stage.nats(model, slices, positions).mean()

    return problem


def common_image(section: SpnSection, size: int) -> Problem:
    """Use a whole image in the common style."""

    def problem(batch: int) -> tuple[nn.Module, Callable[[], Tensor]]:
        model = CommonDecoder(section, decoder_shape(size))
        levels = torch.zeros(batch, 3, size, size, dtype=torch.long)
        return model, lambda: model.loss(levels)

    return problem


def common_snail(size: int, width: int, blocks: int) -> Problem:
    """Use a whole image with the common PixelSNAIL; its logits stand for a loss."""

    def problem(batch: int) -> tuple[nn.Module, Callable[[], Tensor]]:
        model = CommonPixelSnail(size, 3, 256, width, blocks, residuals=2, key_width=16)
        levels = torch.zeros(batch, 3, size, size)
        return model, lambda: model(levels)

    return problem
