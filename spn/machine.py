"""How a machine multiplies matrices: what costs time and changes no result."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

FLOAT32_ERROR = 1e-5
"""Largest error of a product, as a share of its largest entry, that is float32's; bfloat16 has some 1e-3."""


@contextmanager
def onednn_matmul(device: torch.device) -> Iterator[str]:
    """Route the CPU's float32 matrix products through oneDNN while in this context, where they stay float32.

    oneDNN is twice as fast as MKL on AMD processors, but reached only by allowing bfloat16, which it makes no use of
    where there are no matrix units (AMX). So the products are compared with those in float64, and where the error is
    not float32's, nothing is changed. Not for sampling, whose products of few rows are slower so. Gives one line that
    says what was decided and why.
    """
    if device.type != "cpu":
        yield f"float32 products as {device.type} computes them"
        return
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    former = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        error = _product_error()
        if error < FLOAT32_ERROR:
            yield f"float32 products through oneDNN, which stay float32 here (error {error:.0e})"
        else:
            settings.fp32_precision = former
            yield f"float32 products as they come: oneDNN's are not float32 here (error {error:.0e})"
    finally:
        settings.fp32_precision = former


def _product_error() -> float:
    """Compare products of the kinds that training takes with those in float64."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, 252, generator=generator) for size in (512, 128))
    error = 0.0
    for one, other in ((left, right.T), (left.T, left)):
        exact = one.double() @ other.double()
        error = max(error, ((one @ other - exact).abs().max() / exact.abs().max()).item())
    return error
