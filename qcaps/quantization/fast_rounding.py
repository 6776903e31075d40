"""Rounding of arrays in the fewest passes over memory, for those who need no count of clamped values."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qcaps.quantization.formats import FixedPoint, NumberFormat, Rounding
from qcaps.quantization.rounding import quantize

# Stored bits of a mantissa.
MANTISSA_BITS = {torch.float32: 23, torch.float64: 52}


def rounded_values(x: Tensor, fmt: NumberFormat, rounding: Rounding, uniforms: Tensor | None = None) -> Tensor:
    """Round an array to the values of a format; parameters and errors as for :func:`~.rounding.quantize`.

    Returns
    -------
    Tensor
        Bit for bit the values of `quantize`.

    Notes
    -----
    Beside a power of two whose last mantissa bit is one step of the format, the processor's own addition rounds to the
    nearest step, ties to even. Only values far outside of any range are rounded more coarsely, and then clamped.
    """
    if rounding != "round_to_nearest" or not isinstance(fmt, FixedPoint):
        return quantize(x, fmt, rounding, uniforms).values
    anchor = 1.5 * 2.0 ** MANTISSA_BITS[x.dtype] * fmt.step
    raised = x.detach() + anchor
    if not math.isfinite(raised.sum().item()):
        return quantize(x, fmt, rounding).values  # which looks closely, for finite sums may overflow as well
    return raised.sub_(anchor).clamp_(fmt.lowest, fmt.highest)
