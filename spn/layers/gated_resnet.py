"""The gated residual block of PixelCNN++ (Salimans et al. 2017), which PixelSNAIL uses as well."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from spn.layers.elementwise import Dropout, Margins, concat_elu, gated_residual, shared_concat_elu
from spn.layers.pixel import PixelLinear
from spn.layers.shifted import ShiftedConv, ShiftedConvSteps, shifted_row
from spn.layers.weight_norm import SPREAD, normalised
from spn.shapes import AnyFeatures, Features, OneHot, Pixel, Row


class Stream:
    """Features of a stream of convolutions; `concat_elu` of them is computed once for all layers that read it."""

    def __init__(self, features: Features, margins: Margins) -> None:
        """`margins` are those of the stream's own convolutions."""
        self.features, self.margins = features, margins
        self._entering: tuple[Tensor, Tensor] | None = None

    def entering(self) -> tuple[Float[Tensor, "batch _ _ both"], Float[Tensor, "batch height width both"]]:
        """Return `concat_elu` of the features, with the margins and without."""
        if self._entering is None:
            self._entering = shared_concat_elu(self.features, self.margins)
        return self._entering


class GatedResnet(nn.Module):
    """Two convolutions and a gate: x + a * sigmoid(b). The kernels are [2, 3], [2, 2] or [1, 1].

    `num_beside` other features, which must be known in advance or already shifted, enter after the first convolution;
    the image's class, as one of `num_classes` one-hot planes, enters before the gate.
    """

    def __init__(
        self, filters: int, kernel: tuple[int, int], num_beside: int, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.first = _convolution(2 * filters, filters, kernel)
        self.beside = normalised(_OfStreams(2 * num_beside, filters)) if num_beside else None
        self.second = _convolution(2 * filters, 2 * filters, kernel, scale=0.1)
        self.label = nn.Linear(num_classes, 2 * filters, bias=False) if num_classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=SPREAD)
        self.dropout = Dropout(dropout)

    def forward(self, features: AnyFeatures, beside: Sequence[AnyFeatures], label: OneHot | None) -> AnyFeatures:
        """Advance the stream by one block; a kernel of [1, 1] takes single pixels [batch, filters] as well."""
        hidden = _convolved(self.first, features)
        if self.beside:
            hidden = hidden + self.beside(*map(concat_elu, beside))
        return self._gated(features, hidden, label)

    def advance(self, stream: Stream, beside: Sequence[Stream], label: OneHot | None) -> Features:
        """Advance a stream as `forward` does, by a block of convolutions, but share `concat_elu` with other layers."""
        assert isinstance(self.first, ShiftedConv)
        hidden = self.first.inside(stream.entering()[0])
        if self.beside:
            hidden = hidden + self.beside(*(each.entering()[1] for each in beside))
        return self._gated(stream.features, hidden, label)

    def _gated(self, features: AnyFeatures, hidden: AnyFeatures, label: OneHot | None) -> AnyFeatures:
        gates = _convolved(self.second, hidden, self.dropout.rate_now)
        if self.label is not None:
            gates = gates + self.label(label)[:, None, None]
        return gated_residual(features, gates)


class _OfStreams(nn.Linear):
    """A linear map of `concat_elu` of streams of equal width, of which they may come together or one by one."""

    def forward(self, *streams: AnyFeatures) -> AnyFeatures:
        """Map `concat_elu` of all streams, or add up what is made of each, which needs no copy of them side by side."""
        # concat_elu puts all negatives after all features.
        weights = self.weight.unflatten(1, (2, len(streams), -1))
        outputs = F.linear(streams[0], weights[:, :, 0].flatten(1), self.bias)
        for index, stream in enumerate(streams[1:], start=1):
            weight = weights[:, :, index].flatten(1)
            outputs = torch.addmm(outputs.flatten(0, -2), stream.flatten(0, -2), weight.T).view_as(outputs)
        return outputs


def _convolution(num_in: int, num_out: int, kernel: tuple[int, int], scale: float = 1.0) -> nn.Module:
    """Build a down-shifted convolution, a down-right-shifted one, or a linear map of each pixel."""
    if kernel == (1, 1):
        return normalised(nn.Linear(num_in, num_out), scale)
    return ShiftedConv(num_in, num_out, kernel, sees_right=kernel[1] == 3, scale=scale)


def _convolved(layer: nn.Module, features: AnyFeatures, dropout: float = 0.0) -> Tensor:
    """Apply a layer to `concat_elu` of the features, written right into the margins that a convolution reads."""
    if isinstance(layer, ShiftedConv):
        return layer.inside(concat_elu(features, layer.margins, dropout))
    return layer(concat_elu(features, dropout=dropout))


class GatedResnetRows:
    """The row form of a block of the down-shifted stream."""

    def __init__(self, block: GatedResnet, batch: int, columns: int) -> None:
        self._block = block
        self._first, self._second = cast(ShiftedConv, block.first), cast(ShiftedConv, block.second)
        weight = self._first.conv.weight
        self._inputs = weight.new_zeros(2, batch, columns, weight.shape[1])

    def begin(self, label: OneHot | None) -> None:
        """Forget the slices walked before."""
        self._inputs.zero_()
        self._label = label

    def row(self, features: Row, beside: Row | None) -> Row:
        """Advance one row; called for the rows in order."""
        block = self._block
        above, hidden_above = self._inputs
        entering = concat_elu(features)
        hidden = shifted_row(self._first, above, entering)
        if block.beside:
            assert beside is not None
            hidden = hidden + block.beside(concat_elu(beside))
        hidden = concat_elu(hidden)
        gates = shifted_row(self._second, hidden_above, hidden)
        if block.label is not None:
            gates = gates + block.label(self._label)[:, None]
        above.copy_(entering)
        hidden_above.copy_(hidden)
        return gated_residual(features, gates)


class GatedResnetSteps:
    """The step form of a block of the down-right-shifted stream.

    Of the features `beside`, the first `num_per_row` are known for whole rows, the others pixel by pixel.
    """

    def __init__(self, block: GatedResnet, num_per_row: int, batch: int, columns: int) -> None:
        self._block = block
        self._first = ShiftedConvSteps(cast(ShiftedConv, block.first), batch, columns)
        self._second = ShiftedConvSteps(cast(ShiftedConv, block.second), batch, columns)
        self._per_row = self._per_pixel = None
        if block.beside:
            # concat_elu puts all negatives after all features.
            both = block.beside.weight.detach().unflatten(1, (2, -1))
            per_row, per_pixel = both[:, :, :num_per_row].flatten(1), both[:, :, num_per_row:].flatten(1)
            self._per_row = PixelLinear(per_row, block.beside.bias)
            if per_pixel.shape[1]:
                self._per_pixel = PixelLinear(per_pixel)
                self._beside = per_pixel.new_zeros(batch, per_pixel.shape[1])

    def begin(self, label: OneHot | None) -> None:
        """Forget the slices walked before."""
        self._first.begin()
        self._second.begin()
        self._label = label

    def start_row(self, beside: Row | None) -> None:
        """Begin a row, given the features `beside` that are known for the whole row."""
        block, term = self._block, None
        if self._per_row is not None:
            assert beside is not None
            term = self._per_row(concat_elu(beside).flatten(0, 1)).unflatten(0, beside.shape[:2])
        self._first.start_row(term)
        of_class = None if block.label is None else block.label(self._label)[:, None]
        self._second.start_row(of_class)

    def step(self, column: int, features: Pixel, beside: Pixel | None = None) -> Pixel:
        """Advance the pixel at `column`."""
        _concat_elu(features, self._first.slots[column])
        hidden = self._first.step(column)
        if self._per_pixel is not None:
            assert beside is not None
            _concat_elu(beside, self._beside)
            self._per_pixel.add_to(hidden, self._beside)
        _concat_elu(hidden, self._second.slots[column])
        return gated_residual(features, self._second.step(column))


def _concat_elu(features: Pixel, out: Pixel) -> None:
    torch.cat((features, -features), dim=-1, out=out)
    F.elu_(out)
