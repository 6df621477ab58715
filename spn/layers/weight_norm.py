"""Weight normalisation with data-dependent initialisation (Salimans & Kingma 2016), as in PixelCNN++.

The effective weight of an output is w = g v / |v|, with a gain g and a direction v as parameters.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

Map = TypeVar("Map", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)

SPREAD = 0.05
"""Standard deviation of the directions of fresh weights."""

LEAST_SPREAD = 1e-4
"""Minimum standard deviation that counts as variance, relative to the root mean square of all the layer's outputs.

Rounding in float32 makes about 1e-6. An output with less variance is constant over images and pixels, such as at a
resolution whose only pixel sees nothing. Dividing by its deviation would multiply its gain by up to 1e5, and training
would overflow.
"""


def normalised(layer: Map, scale: float = 1.0) -> Map:
    """Reparametrise a layer's weight as a direction and a gain of 1 for each output, and zero its bias.

    `scale` is the standard deviation of its outputs after data-dependent initialisation.
    """
    nn.init.normal_(layer.weight, std=SPREAD)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    # The second dimension of a transposed convolution's weight is its outputs.
    parametrizations.weight_norm(layer, dim=1 if isinstance(layer, nn.ConvTranspose2d) else 0)
    nn.init.ones_(gain(layer))
    layer.initial_scale = torch.tensor(scale)
    return layer


def fold_weight_norm(model: nn.Module) -> Any:
    """Return a copy of the model with weight normalisation folded into plain weights, the effective weights.

    Everything else is shared with the model. (A deep copy with its parametrizations removed would not do: it shares the
    class that they changed, so the model would lose them too.)
    """
    twin: Any = object.__new__(parametrize.type_before_parametrizations(model))
    vars(twin).update(vars(model))
    twin._parameters = dict(model._parameters)
    twin._modules = {
        name: None if child is None else fold_weight_norm(child)
        for name, child in model._modules.items()
        if name != "parametrizations"
    }
    if parametrize.is_parametrized(model, "weight"):
        twin._parameters["weight"] = nn.Parameter(cast(Tensor, model.weight).detach(), requires_grad=False)
    return twin


def gain(layer: nn.Module) -> nn.Parameter:
    """Return the gains of a normalised layer."""
    return layer.get_parameter("parametrizations.weight.original0")


@contextmanager
def initialised_by_data(model: nn.Module) -> Iterator[None]:
    """Initialise normalised layers from data: a forward pass in this context sets their gains and biases in turn.

    Over this batch each output of a layer then has mean 0 and the layer's scale as its standard deviation. The layer
    returns these new outputs, from which the next layer is initialised. An output without variance (`LEAST_SPREAD`)
    keeps its gain and bias.
    """
    with ExitStack() as hooks, torch.no_grad():
        for module in model.modules():
            if hasattr(module, "initial_scale"):
                hooks.enter_context(module.register_forward_hook(_initialise))
        yield


def _initialise(layer: nn.Module, inputs: tuple[Any, ...], outputs: Tensor) -> Tensor:
    is_linear = isinstance(layer, nn.Linear)
    others = [dim for dim in range(outputs.ndim) if dim != (outputs.ndim - 1 if is_linear else 1)]
    variance, mean = torch.var_mean(outputs, dim=others, correction=0)
    varies = variance > LEAST_SPREAD**2 * outputs.square().mean()
    factor = torch.where(varies, cast(Tensor, layer.initial_scale) / torch.sqrt(variance + 1e-10), 1)
    bias, gains = layer.get_parameter("bias"), gain(layer)
    gains.mul_(factor.view_as(gains))
    bias.sub_(torch.where(varies, mean, 0)).mul_(factor)
    return layer.forward(*inputs)
