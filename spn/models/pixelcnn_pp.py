"""PixelCNN++ (Salimans et al. 2017): shifted convolutions at three resolutions, and a discretised mixture of logistics.

There are two streams of features: the down-shifted stream, `u`, sees the rows above; the down-right-shifted stream,
`ul`, sees the pixels to the left as well, and `u`.

NOTE: the paper has no context. In ours, a linear map of the slice embedder's output, pixel-aligned, is added to the
start of each stream; it is known before the slice, so it needs no shift.
"""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spn.config import PixelCnnPpSection
from spn.laws import build_head, head_steps
from spn.layers import (
    GatedResnet,
    GatedResnetRows,
    GatedResnetSteps,
    Recomputing,
    Scale,
    ShiftedConv,
    ShiftedConvSteps,
    ShiftedStart,
    ShiftedStartSteps,
    ShiftedUpsampling,
    Stream,
    UpsamplingSteps,
    down_right_shifted,
    down_shift,
    down_shifted,
    fold_weight_norm,
    shifted_row,
    with_ones,
)
from spn.likelihood import Law
from spn.models.interface import Context, Model, StageShape, Steps, build_embedder, copy_into_buffer, embed, one_hot
from spn.shapes import Features, Levels, OneHot, Pixel, Row

RESOLUTIONS = 3
DOWN_SHIFTED, DOWN_RIGHT_SHIFTED = (1, 1, 1), (1, 0, 1)
"""Margins of the convolutions of both streams."""


class Resolution(Recomputing):
    """The blocks of both streams at one resolution, on the ways up and down, with the lower resolutions in between."""

    def __init__(self, section: PixelCnnPpSection, num_classes: int, below: int) -> None:
        super().__init__()
        filters, options = section.filters, (num_classes, section.dropout)
        self.filters, self.short_cuts = filters, section.short_cuts

        def blocks(count: int, kernel: tuple[int, int], num_beside: int) -> nn.ModuleList:
            return nn.ModuleList(GatedResnet(filters, kernel, num_beside, *options) for _ in range(count))

        num_down = section.resnets + (1 if below else 0)
        short_cut = filters if section.short_cuts else 0
        self.up_u = blocks(section.resnets, (2, 3), 0)
        self.up_ul = blocks(section.resnets, (2, 2), filters)
        self.down_u = blocks(num_down, (2, 3), short_cut)
        self.down_ul = blocks(num_down, (2, 2), filters + short_cut)
        self.below = Resolution(section, num_classes, below - 1) if below else None
        if below:
            stride = 2 if section.downsampling else 1
            self.enter_u = down_shifted(filters, filters, stride=stride)
            self.enter_ul = down_right_shifted(filters, filters, stride=stride)
            self.leave_u = _leave(filters, stride, sees_right=True)
            self.leave_ul = _leave(filters, stride, sees_right=False)

    def forward(self, u: Features, ul: Features, label: OneHot | None) -> tuple[Features, Features]:
        """Advance both streams up to the lowest resolution and back to this one."""
        us, uls = [Stream(u, DOWN_SHIFTED)], [Stream(ul, DOWN_RIGHT_SHIFTED)]
        for of_u, of_ul in zip(self.up_u, self.up_ul, strict=True):
            us.append(self._advance(of_u, us[-1], [], label))
            uls.append(self._advance(of_ul, uls[-1], [us[-1]], label))
        if self.below:
            u, ul = self.below(self.enter_u(us[-1].features), self.enter_ul(uls[-1].features), label)
            now_u, now_ul = Stream(self.leave_u(u), DOWN_SHIFTED), Stream(self.leave_ul(ul), DOWN_RIGHT_SHIFTED)
        else:
            now_u, now_ul = us.pop(), uls.pop()
        for of_u, of_ul in zip(self.down_u, self.down_ul, strict=True):
            kept_u, kept_ul = us.pop(), uls.pop()
            now_u = self._advance(of_u, now_u, [kept_u] if self.short_cuts else [], label)
            now_ul = self._advance(of_ul, now_ul, [now_u, kept_ul] if self.short_cuts else [now_u], label)
        assert not us, "every output on the way up has its short-cut on the way down"
        return now_u.features, now_ul.features

    def _advance(self, block: nn.Module, stream: Stream, beside: list[Stream], label: OneHot | None) -> Stream:
        """Advance a stream by one block; one that is computed again keeps its features alone."""
        if self.recompute:
            given = [each.features for each in beside]
            return Stream(self.run_layer(block, stream.features, given, label), stream.margins)
        return Stream(cast(GatedResnet, block).advance(stream, beside, label), stream.margins)


def _leave(filters: int, stride: int, sees_right: bool) -> nn.Module:
    if stride == 1:
        return (down_shifted if sees_right else down_right_shifted)(filters, filters)
    return ShiftedUpsampling(filters, filters, sees_right)


class PixelCnnPp(Model):
    """Both streams, and a head on the down-right-shifted stream."""

    def __init__(self, section: PixelCnnPpSection, shape: StageShape) -> None:
        super().__init__()
        self.shape = shape
        filters, channels = section.filters, shape.channels
        self.scale = Scale(shape.num_levels, shape.high_levels)
        self.embedder = build_embedder(section, shape, filters)
        self.first_u = down_shifted(channels + 1, filters)
        self.first_ul = ShiftedStart(channels + 1, filters)
        self.context_u = nn.Linear(filters, filters, bias=False) if self.embedder else None
        self.context_ul = nn.Linear(filters, filters, bias=False) if self.embedder else None
        self.streams = Resolution(section, shape.num_classes, RESOLUTIONS - 1)
        self.head = build_head(section.law, filters, channels, self.scale, section.mixtures)

    def embed_target(self, levels: Levels) -> Float[Tensor, "batch height width channel 1"]:
        """Scale the target's levels to [-1, 1]."""
        return self.scale.embed(levels, next(self.parameters()).dtype)[..., None]

    def embed_context(self, context: Context) -> Features | None:
        """Run the slice embedder; None for a stage without cells of context."""
        return embed(self.embedder, context)

    def laws(
        self,
        embedded: Float[Tensor, "batch height width channel 1"],
        embedded_context: Features | None,
        context: Context,
    ) -> Law:
        """Run both streams; the head makes the laws from `ul`."""
        values = embedded[..., 0]
        image = with_ones(values)
        u, ul = down_shift(self.first_u(image)), self.first_ul(image)
        if self.context_u and self.context_ul:
            u, ul = u + self.context_u(embedded_context), ul + self.context_ul(embedded_context)
        _, ul = self.streams(u, ul, one_hot(context, self.shape, values.dtype))
        return self.head(ul, values, context.high)


class PixelCnnPpSteps(Steps):
    """The step form: `u` runs once per row, `ul` once per pixel, lower resolutions at their own rows and pixels."""

    def __init__(self, model: PixelCnnPp, batch: int) -> None:
        shape = model.shape
        self.model = model
        self._start = ShiftedStartSteps(model.first_ul, model.scale, batch, shape.width)
        self._streams = _ResolutionSteps(model.streams, batch, shape.width)
        self._head = head_steps(model.head, batch)
        self._embedded_context: Features | None = None
        self._high: Tensor | None = None
        self._label: OneHot | None = None

    def begin(self, context: Context) -> None:
        """Begin a batch of slices, given their context."""
        self._embedded_context = copy_into_buffer(self._embedded_context, self.model.embed_context(context))
        self._high = copy_into_buffer(self._high, context.high)
        self._label = copy_into_buffer(self._label, one_hot(context, self.model.shape, self._start.features.dtype))
        self._streams.begin(self._label)

    def start_row(self, row: int) -> None:
        """Begin a row, all rows before it being known."""
        model, start = self.model, self._start
        self._row = row
        of_row = None if self._embedded_context is None else self._embedded_context[:, row]
        start.start_row(row, None if model.context_ul is None else model.context_ul(of_row))
        u = torch.zeros_like(start.features) if row == 0 else shifted_row(model.first_u, start.further, start.above)
        self._streams.start_row(row, u if model.context_u is None else u + model.context_u(of_row))

    def start_pixel(self, column: int) -> None:
        """Begin a pixel of the row, all before it being known."""
        ul = self._streams.step(self._row, column, self._start.pixel(column))
        high = None if self._high is None else self._high[:, self._row, column]
        self._head.start(ul, high)
        self._column = column

    def law(self, channel: int) -> Law:
        """Return the laws of a channel of the pixel, all before it being known."""
        return self._head.law(channel)

    def observe(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Fill in a channel of the pixel."""
        self._start.observe(self._column, channel, levels)
        self._head.observe(channel, levels)


class _ResolutionSteps:
    """The step form of a `Resolution`; rows and columns are counted at its own resolution."""

    def __init__(self, streams: Resolution, batch: int, columns: int) -> None:
        self._streams = streams
        self._up_u, self._down_u = (
            [GatedResnetRows(cast(GatedResnet, each), batch, columns) for each in blocks]
            for blocks in (streams.up_u, streams.down_u)
        )
        self._up_ul, self._down_ul = (
            [GatedResnetSteps(cast(GatedResnet, each), streams.filters, batch, columns) for each in blocks]
            for blocks in (streams.up_ul, streams.down_ul)
        )
        self._below: _Below | None = _Below(streams, batch, columns) if streams.below else None

    def begin(self, label: OneHot | None) -> None:
        for of_u in self._up_u + self._down_u:
            of_u.begin(label)
        for of_ul in self._up_ul + self._down_ul:
            of_ul.begin(label)
        if self._below:
            self._below.begin(label)

    def start_row(self, row: int, u: Row) -> Row:
        us = [u]
        for of_u, of_ul in zip(self._up_u, self._up_ul, strict=True):
            us.append(of_u.row(us[-1], None))
            of_ul.start_row(us[-1])
        u = self._below.start_row(row, us[-1]) if self._below else us.pop()
        for of_u, of_ul in zip(self._down_u, self._down_ul, strict=True):
            kept = us.pop()
            u = of_u.row(u, kept if self._streams.short_cuts else None)
            of_ul.start_row(u)
        return u

    def step(self, row: int, column: int, ul: Pixel) -> Pixel:
        uls = [ul]
        for block in self._up_ul:
            uls.append(block.step(column, uls[-1]))
        ul = self._below.step(row, column, uls[-1]) if self._below else uls.pop()
        for block in self._down_ul:
            kept = uls.pop()
            ul = block.step(column, ul, kept if self._streams.short_cuts else None)
        return ul


class _Below:
    """The step form of the lower resolutions: entered at every stride-th row and column, read at every one."""

    def __init__(self, streams: Resolution, batch: int, columns: int) -> None:
        assert streams.below is not None
        self._streams, self._stride = streams, streams.enter_u.conv.stride[0]
        inside = columns // self._stride
        self._steps = _ResolutionSteps(streams.below, batch, inside)
        self._enter = ShiftedConvSteps(streams.enter_ul, batch, columns)
        weight = streams.enter_u.conv.weight
        self._above = weight.new_zeros(batch, columns, weight.shape[1])
        self._leaving = self._above.new_zeros(batch, 2, columns, weight.shape[0])
        self._upsampling = self._leave = None
        if isinstance(streams.leave_ul, ShiftedUpsampling):
            self._upsampling = UpsamplingSteps(streams.leave_ul, batch, inside)
        else:
            self._leave = ShiftedConvSteps(cast(ShiftedConv, streams.leave_ul), batch, columns)

    def begin(self, label: OneHot | None) -> None:
        self._above.zero_()
        self._leaving.zero_()
        self._enter.begin()
        self._steps.begin(label)
        if self._leave:
            self._leave.begin()

    def start_row(self, row: int, u: Row) -> Row:
        streams = self._streams
        if row % self._stride == 0:
            self._enter.start_row()
            inside = self._steps.start_row(row // self._stride, shifted_row(streams.enter_u, self._above, u))
            if self._leave:
                self._leave.start_row()
                leave = cast(ShiftedConv, streams.leave_u)
                before, now = self._leaving.unbind(1)
                outside = shifted_row(leave, before, inside)
                before.copy_(inside)
                now.copy_(outside)
            else:
                self._leaving.copy_(streams.leave_u(inside[:, None]))
        self._above.copy_(u)
        return self._leaving[:, 1 if self._leave else row % 2]

    def step(self, row: int, column: int, ul: Pixel) -> Pixel:
        self._enter.slots[column].copy_(ul)
        if row % self._stride == 0 and column % self._stride == 0:
            inside = column // self._stride
            below = self._steps.step(row // self._stride, inside, self._enter.step(inside))
            if self._leave:
                self._leave.slots[column].copy_(below)
                return self._leave.step(column)
            assert self._upsampling is not None
            self._upsampling.write(inside, below)
        assert self._upsampling is not None
        return self._upsampling.pixel(row, column)


def build(section: PixelCnnPpSection, shape: StageShape) -> PixelCnnPp:
    """Build the family for a stage of this shape."""
    return PixelCnnPp(section, shape)


def steps(model: PixelCnnPp, batch: int) -> PixelCnnPpSteps:
    """Build the step form, whose weights have their normalisation folded in."""
    return PixelCnnPpSteps(fold_weight_norm(model), batch)
