"""The choice of the scale: the format of a given width that suits an array best."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qcaps.quantization.formats import (
    SCALE_LIMIT,
    FixedPoint,
    Float32,
    Logarithmic,
    NumberFormat,
    PackedFormat,
    Rounding,
)
from qcaps.quantization.rounding import quantize

# Scales tried: the one that holds the largest value, and so many that trade its clamping for a finer step.
SMALLER_SCALES = 3


def choose_format(values: Tensor, largest: float, bits: int, rounding: Rounding) -> NumberFormat:
    """Choose the scale with the least mean squared error for this width and scheme.

    Parameters
    ----------
    values
        A sample of the array, any shape, float32 or float64.
    largest
        The exact max |x| of the whole array, which the sample need not contain.
    bits
        Total width; above what the scheme can pack (16, logarithmic 8) the array stays float32.
    rounding
        The scheme that will round the array; stochastic rounding counts with its expected error.

    Returns
    -------
    NumberFormat
        The smallest scale whose range holds `largest` after rounding, or one of the next three below it; the
        larger one on a tie. An array of zeros gets the range [-1, 1).

    Raises
    ------
    ValueError
        If `bits` is below what the scheme can have, or if `largest` is NaN or infinite.
    """
    if not math.isfinite(largest):
        raise ValueError("the largest value is NaN or infinite")
    if bits > (Logarithmic if rounding == "logarithmic" else FixedPoint).max_bits:
        return Float32()
    if rounding == "logarithmic":
        candidates: list[PackedFormat] = [*_logarithmic_candidates(largest, bits)]
    else:
        candidates = [*_fixed_point_candidates(largest, bits, rounding)]
    sample = values.detach().to(torch.float64)
    return min(candidates, key=lambda fmt: _squared_error(sample, fmt, rounding))  # the first on a tie


def _fixed_point_candidates(largest: float, bits: int, rounding: Rounding) -> list[FixedPoint]:
    """List the formats to compare, the largest range first."""
    if largest == 0.0:
        return [FixedPoint(bits, bits - 1)]
    frac_bits = _within_limit(bits - math.frexp(largest)[1])  # one bit too fine, or just right if n = 1
    while frac_bits > -SCALE_LIMIT and not _holds(largest, FixedPoint(bits, frac_bits), rounding):
        frac_bits -= 1
    finest = min(frac_bits + SMALLER_SCALES, SCALE_LIMIT)
    return [FixedPoint(bits, tried) for tried in range(frac_bits, finest + 1)]


def _holds(largest: float, fmt: FixedPoint, rounding: Rounding) -> bool:
    """Tell whether the range holds `largest` after rounding, whatever the draw."""
    end = -largest if fmt.bits == 1 else largest  # one bit has no positive code
    always_up = torch.zeros(1)
    return quantize(torch.tensor([end], dtype=torch.float64), fmt, rounding, always_up).saturated == 0


def _logarithmic_candidates(largest: float, bits: int) -> list[Logarithmic]:
    """List the formats to compare, the largest range first."""
    if largest == 0.0:
        return [Logarithmic(bits, 0)]
    half_mantissa, exponent = math.frexp(largest)  # half_mantissa² < ½ is m² < 2
    rounded = exponent - 1 if half_mantissa**2 < 0.5 else exponent
    exponents = dict.fromkeys(_within_limit(rounded - lower) for lower in range(SMALLER_SCALES + 1))
    return [Logarithmic(bits, tried) for tried in exponents]


def _within_limit(scale: int) -> int:
    """Bring a scale exponent into the range that files can hold."""
    return max(-SCALE_LIMIT, min(scale, SCALE_LIMIT))


def _squared_error(values: Tensor, fmt: PackedFormat, rounding: Rounding) -> float:
    """Sum the (expected) squared errors over all values."""
    if not isinstance(fmt, FixedPoint) or rounding != "stochastic_rounding":
        return quantize(values, fmt, rounding).values.sub_(values).square_().sum().item()
    steps = values * math.ldexp(1.0, fmt.frac_bits)
    lower = steps.floor()
    up = steps - lower  # probability of the upper neighbour
    error_down = (lower.clamp(fmt.lowest_code, fmt.highest_code) - steps).square_()
    error_up = ((lower + 1).clamp_(fmt.lowest_code, fmt.highest_code) - steps).square_()
    return torch.lerp(error_down, error_up, up).sum().item() * fmt.step**2
