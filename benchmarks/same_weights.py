"""Copies our weights into the common-style decoder, so that both compute the same function.

Each of our causal layers is an affine map that is the same at every pixel, so the kernel of an equivalent masked
convolution can be read off its response to impulses.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.common_style import CommonDecoder, CommonGatedLayer, MaskedConv2d, values_first
from spn.layers import GatedLayer, MaskedHead
from spn.models import Model
from spn.models.spn import SubscalePixelNetwork


@torch.no_grad()
def common_decoder(ours: Model, common: CommonDecoder) -> CommonDecoder:
    """Copy the weights of a decoder without context into its common-style twin, in float64; return the twin."""
    ours, common = copy.deepcopy(ours).double(), common.double()
    assert isinstance(ours, SubscalePixelNetwork)
    entry = {"weight": ours.entry.weight[:, :, None, None], "bias": ours.entry.bias}
    common.entry.load_state_dict(entry)
    common.row_positions.copy_(ours.transformer.row_positions.permute(2, 0, 1)[None])
    common.column_positions.copy_(ours.transformer.column_positions.permute(2, 0, 1)[None])
    common.norm.load_state_dict(ours.transformer.norm.state_dict())
    for block, source in zip(common.blocks, ours.transformer.blocks, strict=True):
        _copy_block(block, source)
    for layer, source in zip(common.layers, ours.pixelcnn.layers, strict=True):
        assert isinstance(layer, CommonGatedLayer)
        assert isinstance(source, GatedLayer)
        _copy_layer(layer, source, common.shape.channels)
    head = ours.pixelcnn.head
    assert isinstance(head, MaskedHead)
    _copy_kernel(common.hidden, head.hidden)
    _copy_kernel(common.logits, head.output)
    return common


def _copy_block(block: nn.Module, source: nn.Module) -> None:
    for name in ("attention.queries_keys_values", "attention.out", "attention_norm", "mlp_norm", "mlp"):
        block.get_submodule(name).load_state_dict(source.get_submodule(name).state_dict())


def _copy_layer(layer: CommonGatedLayer, source: GatedLayer, channels: int) -> None:
    def gated(weight: Tensor) -> Tensor:
        return values_first(weight, channels)

    assert source.horizontal_condition is not None

    _copy_kernel(layer.vertical, source.vertical)
    _copy_kernel(layer.horizontal, source.horizontal, gated)
    _copy_kernel(layer.link, source.link, gated)
    _copy_kernel(layer.condition, source.horizontal_condition, gated)
    _copy_kernel(layer.out, source.out)


def _copy_kernel(conv: nn.Conv2d, source: nn.Module, order: Callable[[Tensor], Tensor] = lambda weight: weight) -> None:
    """Copy a layer's response to impulses into a kernel; it must be zero where the kernel has no tap or is masked."""
    weight, bias = impulse_response(source, conv.in_channels)
    weight, (height, width) = order(weight), conv.kernel_size
    kernel = weight[:, :, 1 - height // 2 : 2 + height // 2, 1 - width // 2 : 2 + width // 2]
    conv.weight.copy_(kernel * conv.mask if isinstance(conv, MaskedConv2d) else kernel)
    kernel -= conv.weight
    assert not weight.any(), "a tap of ours lies outside the masked kernel"
    if conv.bias is not None:
        conv.bias.copy_(order(bias))


def impulse_response(layer: nn.Module, num_in: int) -> tuple[Tensor, Tensor]:
    """Read the 3x3 kernel [out, in, 3, 3] and the bias [out] of an affine layer on [batch, height, width, feature]."""
    impulses = torch.zeros(num_in + 1, 5, 5, num_in, dtype=torch.float64)
    impulses[range(num_in), 2, 2, range(num_in)] = 1
    response = layer(impulses)
    bias = response[-1, 2, 2]
    return (response[:-1] - bias)[:, 1:4, 1:4].flip(1, 2).permute(3, 0, 1, 2), bias
