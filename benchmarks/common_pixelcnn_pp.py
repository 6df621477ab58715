"""PixelCNN++ (Salimans et al. 2017) in the style of public PyTorch code: our function, written another way.

Features are NCHW; shifts and paddings are copies; every layer is weight-normalised anew in `forward`; concat_elu is elu
of a concatenation; maps of single pixels permute to NHWC and back; whole channels are dropped, which is cheaper than
our dropout; the loss sums the channels' log-masses for each component; the optimiser is torch's default Adam. With our
weights, copied by `common_twin`, it has the same loss, so that only the style makes a difference in time.
"""

import copy
import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from spn.config import PixelCnnPpSection
from spn.layers import GatedResnet
from spn.models import Model
from spn.models.pixelcnn_pp import PixelCnnPp, Resolution

NEGLIGIBLE = 1e-5
"""Mass of a bin under which public code approximates the logarithm by that of the density in the bin's middle."""


def concat_elu(features: Tensor) -> Tensor:
    """Apply elu to the features and to their negatives."""
    return F.elu(torch.cat((features, -features), dim=1))


class Nin(nn.Module):
    """A linear map of each pixel."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.map = weight_norm(nn.Linear(num_in, num_out))

    def forward(self, features: Tensor) -> Tensor:
        """Map [batch, feature, height, width]."""
        batch, num_in, height, width = features.shape
        pixels = features.permute(0, 2, 3, 1).contiguous().view(-1, num_in)
        return self.map(pixels).view(batch, height, width, -1).permute(0, 3, 1, 2)


class Shifted(nn.Module):
    """A convolution with zeros above and on both sides, or above and to the left."""

    def __init__(
        self, num_in: int, num_out: int, kernel: tuple[int, int], sees_right: bool, stride: int = 1, shift: str = ""
    ) -> None:
        super().__init__()
        height, width = kernel
        left, right = (width // 2, width // 2) if sees_right else (width - 1, 0)
        self.pad = nn.ZeroPad2d((left, right, height - 1, 0))
        self.conv = weight_norm(nn.Conv2d(num_in, num_out, kernel, stride=stride))
        self.shift = shift
        self.before = nn.ZeroPad2d((0, 0, 1, 0) if shift == "down" else (1, 0, 0, 0))

    def forward(self, features: Tensor) -> Tensor:
        """Convolve [batch, feature, height, width], then shift the output if asked to."""
        outputs = self.conv(self.pad(features))
        if self.shift:
            outputs = self.before(outputs[:, :, :-1] if self.shift == "down" else outputs[:, :, :, :-1])
        return outputs


class Doubling(nn.Module):
    """A transposed convolution, cropped to twice the resolution."""

    def __init__(self, filters: int, kernel: tuple[int, int], sees_right: bool) -> None:
        super().__init__()
        self.crop = 1 if sees_right else 0
        self.conv = weight_norm(nn.ConvTranspose2d(filters, filters, kernel, stride=2, output_padding=1))

    def forward(self, features: Tensor) -> Tensor:
        """Double the height and the width of [batch, feature, height, width]."""
        height, width = features.shape[2:]
        return self.conv(features)[:, :, : 2 * height, self.crop : self.crop + 2 * width]


class Residual(nn.Module):
    """A gated residual block."""

    def __init__(self, filters: int, kernel: tuple[int, int], num_beside: int) -> None:
        super().__init__()
        sees_right = kernel[1] == 3
        self.first = Shifted(2 * filters, filters, kernel, sees_right)
        self.beside = Nin(2 * num_beside, filters) if num_beside else None
        self.dropout = nn.Dropout2d(0.5)
        self.second = Shifted(2 * filters, 2 * filters, kernel, sees_right)

    def forward(self, features: Tensor, beside: Tensor | None = None) -> Tensor:
        """Advance [batch, feature, height, width]."""
        hidden = self.first(concat_elu(features))
        if self.beside is not None and beside is not None:
            hidden = hidden + self.beside(concat_elu(beside))
        values, gates = self.second(self.dropout(concat_elu(hidden))).chunk(2, dim=1)
        return features + values * torch.sigmoid(gates)


class Pair(nn.Module):
    """A block of each stream; the second sees the first, and both see what was kept on the way up, if anything."""

    def __init__(self, filters: int, sees_kept: bool) -> None:
        super().__init__()
        kept = filters if sees_kept else 0
        self.u = Residual(filters, (2, 3), kept)
        self.ul = Residual(filters, (2, 2), filters + kept)

    def forward(self, u: Tensor, ul: Tensor, *kept: Tensor) -> tuple[Tensor, Tensor]:
        """Advance both streams."""
        u = self.u(u, *kept[:1])
        return u, self.ul(ul, torch.cat((u, *kept[1:]), dim=1) if kept else u)


class CommonPixelCnnPp(nn.Module):
    """Both streams through three resolutions and back, and the parameters of a mixture for every pixel."""

    def __init__(self, resnets: int, filters: int, channels: int, mixtures: int) -> None:
        super().__init__()

        def pairs(count: int, sees_kept: bool) -> nn.Sequential:
            return nn.Sequential(*(Pair(filters, sees_kept) for _ in range(count)))

        self.first_u = Shifted(channels + 1, filters, (2, 3), sees_right=True, shift="down")
        self.first_above = Shifted(channels + 1, filters, (1, 3), sees_right=True, shift="down")
        self.first_left = Shifted(channels + 1, filters, (2, 1), sees_right=False, shift="right")
        self.up = nn.Sequential(*(pairs(resnets, sees_kept=False) for _ in range(3)))
        self.down = nn.Sequential(*(pairs(resnets + (level < 2), sees_kept=True) for level in range(3)))
        self.enter_u = nn.Sequential(*(Shifted(filters, filters, (2, 3), True, stride=2) for _ in range(2)))
        self.enter_ul = nn.Sequential(*(Shifted(filters, filters, (2, 2), False, stride=2) for _ in range(2)))
        self.leave_u = nn.Sequential(*(Doubling(filters, (2, 3), sees_right=True) for _ in range(2)))
        self.leave_ul = nn.Sequential(*(Doubling(filters, (2, 2), sees_right=False) for _ in range(2)))
        self.out = Nin(filters, mixtures * (1 + 3 * channels))

    def forward(self, image: Tensor) -> Tensor:
        """Return the parameters [batch, parameter, height, width] of the laws of an image on [-1, 1]."""
        image = torch.cat((image, torch.ones_like(image[:, :1])), dim=1)
        kept = [(self.first_u(image), self.first_above(image) + self.first_left(image))]
        for level in range(3):
            for pair in cast(nn.Sequential, self.up[level]):
                kept.append(pair(*kept[-1]))
            if level < 2:
                u, ul = kept[-1]
                kept.append((self.enter_u[level](u), self.enter_ul[level](ul)))
        u, ul = kept.pop()
        for level in (2, 1, 0):
            for pair in cast(nn.Sequential, self.down[level]):
                u, ul = pair(u, ul, *kept.pop())
            if level:
                u, ul = self.leave_u[level - 1](u), self.leave_ul[level - 1](ul)
        return self.out(F.elu(ul))

    def loss(self, levels: Tensor) -> Tensor:
        """Return the mean nats of a sub-pixel of levels [batch, 3, height, width] out of 256."""
        image = levels.to(self.first_u.conv.bias.dtype) * (2 / 255) - 1
        return -mixture_log_prob(image, self(image)).mean() / levels.shape[1]


def mixture_log_prob(image: Tensor, parameters: Tensor) -> Tensor:
    """Return the log-probability [batch, height, width] of RGB pixels under mixtures of logistics over 256 levels."""
    image, parameters = image.permute(0, 2, 3, 1), parameters.permute(0, 2, 3, 1)
    num = parameters.shape[-1] // 10
    weights = parameters[..., :num]
    means, log_scales, shifts = parameters[..., num:].unflatten(-1, (3, 3 * num)).split(num, dim=-1)
    log_scales, shifts = log_scales.clamp(min=-7.0), torch.tanh(shifts)
    values = image[..., None] + torch.zeros_like(means)
    green = means[..., 1, :] + shifts[..., 0, :] * values[..., 0, :]
    blue = means[..., 2, :] + shifts[..., 1, :] * values[..., 0, :] + shifts[..., 2, :] * values[..., 1, :]
    means = torch.stack((means[..., 0, :], green, blue), dim=-2)
    centred, inverse = values - means, torch.exp(-log_scales)
    upper, lower, middle = inverse * (centred + 1 / 255), inverse * (centred - 1 / 255), inverse * centred
    mass = torch.sigmoid(upper) - torch.sigmoid(lower)
    density = middle - log_scales - 2 * F.softplus(middle) - math.log(127.5)
    inner = torch.where(mass > NEGLIGIBLE, torch.log(mass.clamp(min=1e-12)), density)
    last = torch.where(values > 0.999, -F.softplus(lower), inner)
    log_masses = torch.where(values < -0.999, upper - F.softplus(upper), last)
    return torch.logsumexp(log_masses.sum(-2) + weights.log_softmax(-1), dim=-1)


@torch.no_grad()
def common_twin(ours: Model, section: PixelCnnPpSection) -> CommonPixelCnnPp:
    """Return the common-style twin of a PixelCNN++ on RGB without context, with the same weights, in float64."""
    ours = copy.deepcopy(ours).double()
    assert isinstance(ours, PixelCnnPp)
    common = CommonPixelCnnPp(section.resnets, section.filters, 3, section.mixtures).double()
    _copy(common.first_u.conv, ours.first_u.conv)
    _copy(common.first_above.conv, ours.first_ul.above.conv)
    _copy(common.first_left.conv, ours.first_ul.left.conv)
    resolution: Resolution | None = ours.streams
    for level in range(3):
        assert resolution is not None
        for way in ("up", "down"):
            for stream in ("u", "ul"):
                blocks = getattr(resolution, f"{way}_{stream}")
                for pair, source in zip(getattr(common, way)[level], blocks, strict=True):
                    _copy_block(getattr(pair, stream), source)
        if level < 2:
            for name in ("enter_u", "enter_ul", "leave_u", "leave_ul"):
                _copy(getattr(common, name)[level].conv, getattr(resolution, name).conv)
        resolution = resolution.below
    _copy(common.out.map, ours.head.output, _by_channel)
    return common


def _copy_block(theirs: Residual, source: GatedResnet) -> None:
    for name in ("first", "second"):
        _copy(getattr(theirs, name).conv, getattr(source, name).conv)
    if theirs.beside is not None:
        assert source.beside is not None
        _copy(theirs.beside.map, source.beside)


def _copy(theirs: nn.Module, source: nn.Module, order: Callable[[Tensor], Tensor] = lambda outputs: outputs) -> None:
    """Copy a bias and an effective weight, whose gain and direction the other layer finds anew."""
    theirs.weight = order(cast(Tensor, source.weight))
    theirs.get_parameter("bias").copy_(order(source.get_parameter("bias")))


def _by_channel(outputs: Tensor) -> Tensor:
    """Reorder the parameters of mixtures on RGB: ours are all means, then all log-scales, then all coefficients."""
    weights, rest = outputs.unflatten(0, (10, -1)).split((1, 9))
    return torch.cat((weights.flatten(0, 1), rest.unflatten(0, (3, 3)).transpose(0, 1).flatten(0, 2)))
