"""Rounding that gradients pass straight through, for training under a bit plan."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from qcaps.quantization.formats import FixedPoint, Float32, NumberFormat, PackedFormat, PerChannel, Rounding
from qcaps.quantization.rounding import quantize, to_base, unclamped


def round_through(x: Tensor, fmt: NumberFormat, rounding: Rounding, uniforms: Tensor | None = None) -> Tensor:
    """Round an array as `quantize` does; its gradient is that of the identity, and 0 where a value was clamped.

    Parameters
    ----------
    x, fmt, rounding, uniforms
        As for :func:`~qcaps.quantization.rounding.quantize`.

    Raises
    ------
    ValueError
        As for :func:`~qcaps.quantization.rounding.quantize`.

    Notes
    -----
    A small value that the logarithmic format takes for 0 is not clamped: its gradient passes.

    References
    ----------
    Bengio, Léonard and Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional
    Computation", 2013: the straight-through estimator.
    """
    result: Tensor = _RoundThrough.apply(x, fmt, rounding, uniforms)
    return result


class _RoundThrough(Function):
    @staticmethod
    def forward(ctx: Function, x: Tensor, fmt: NumberFormat, rounding: Rounding, uniforms: Tensor | None) -> Tensor:
        rounded = quantize(x, fmt, rounding, uniforms)
        if rounded.saturated and not isinstance(fmt, Float32) and ctx.needs_input_grad[0]:
            ctx.save_for_backward(_unclamped_places(x, fmt, rounding, uniforms))
        return rounded.values

    @staticmethod
    def backward(ctx: Function, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        for unclamped_places in ctx.saved_tensors:
            gradient = gradient * unclamped_places
        return gradient, None, None, None


def _unclamped_places(x: Tensor, fmt: PackedFormat, rounding: Rounding, uniforms: Tensor | None) -> Tensor:
    """Give 1 where a value stayed in the range, else 0, in the dtype of `x`: faster than booleans."""
    if isinstance(fmt, PerChannel):
        x, fmt = to_base(x, fmt), fmt.base
    grid = unclamped(x, fmt, rounding, uniforms)
    lowest, highest = (fmt.lowest_code, fmt.highest_code) if isinstance(fmt, FixedPoint) else (fmt.lowest, fmt.highest)
    inside = grid.clamp(lowest, highest)
    return torch.eq(inside, grid, out=inside)
