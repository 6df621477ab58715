"""Exact integer operations on images: interleaved slices, bit ranges, relative windows."""

from spn.image.bits import split_bits
from spn.image.slices import join_slices, split_slices
from spn.image.views import apply_view
from spn.image.window import causal_offsets, gather_window, window_offsets

__all__ = [
    "apply_view",
    "causal_offsets",
    "gather_window",
    "join_slices",
    "split_bits",
    "split_slices",
    "window_offsets",
]
