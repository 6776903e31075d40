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
    OneScale,
    PerChannel,
    Rounding,
    shifted,
)
from qcaps.quantization.rounding import quantize, unclamped

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
    base = _base(bits, rounding)
    if isinstance(base, Float32):
        return base
    (shift,) = _shifts(values.detach().reshape(1, -1), torch.tensor([largest], dtype=torch.float64), base, rounding)
    return shifted(base, shift)


def choose_channel_formats(values: Tensor, bits: int, rounding: Rounding) -> PerChannel | Float32:
    """Choose a scale for every channel of a weight, each as `choose_format` does.

    Parameters
    ----------
    values
        The whole weight, float32 or float64, channels first.
    bits, rounding
        As for `choose_format`.

    Raises
    ------
    ValueError
        If `bits` is below what the scheme can have, or if a value is NaN or infinite.
    """
    base = _base(bits, rounding)
    if isinstance(base, Float32):
        return base
    channels = values.detach().reshape(len(values), -1)
    lowest, highest = channels.aminmax(dim=1)
    return PerChannel(base, tuple(_shifts(channels, torch.maximum(-lowest, highest), base, rounding)))


def _base(bits: int, rounding: Rounding) -> OneScale | Float32:
    """Give the format of scale exponent 0."""
    kind = Logarithmic if rounding == "logarithmic" else FixedPoint
    return Float32() if bits > kind.max_bits else kind(bits, 0)


def _shifts(channels: Tensor, largest: Tensor, base: OneScale, rounding: Rounding) -> list[int]:
    """Choose the shift of every channel.

    Parameters
    ----------
    channels
        Values to compare scales by, shape ``(channels, values)``.
    largest
        Largest magnitude of each, shape ``(channels,)``.
    base, rounding
        Format before scaling, and scheme.
    """
    if not largest.isfinite().all():
        raise ValueError("the largest value is NaN or infinite")
    first = _first_shifts(largest.to(torch.float64), base, rounding)
    finer = torch.arange(SMALLER_SCALES + 1)[:, None]
    errors = _squared_errors(channels, first, base, rounding)  # (scales, channels)
    errors.masked_fill_(first + finer > SCALE_LIMIT, math.inf)
    return (first + errors.argmin(0)).tolist()  # the first on a tie


def _first_shifts(largest: Tensor, base: OneScale, rounding: Rounding) -> Tensor:
    """Find the smallest scale whose range holds the largest value after rounding, whatever the draw."""
    mantissa, exponent = torch.frexp(largest)  # mantissa from ½ to below 1
    if isinstance(base, Logarithmic):
        # mantissa² < ½ is m² < 2
        shift = mantissa.square().lt(0.5).long() - exponent
        return _within_limit(shift.where(largest > 0, 0))
    end = -largest if base.bits == 1 else largest  # one bit has no positive code
    always_up = torch.zeros_like(end)
    # Too fine by one, or by two where rounding carries; with one bit by none or by one.
    shift = _within_limit(base.bits - exponent.long())
    for _ in range(2):
        code = unclamped(_scaled(end, shift), base, rounding, always_up)
        held = (code >= base.lowest_code) & (code <= base.highest_code)
        shift = _within_limit(shift - (~held).long())
    return shift.where(largest > 0, base.bits - 1)


def _within_limit(shifts: Tensor) -> Tensor:
    """Bring shifts into the range that files can hold."""
    return shifts.clamp(-SCALE_LIMIT, SCALE_LIMIT)


def _scaled(channels: Tensor, shifts: Tensor) -> Tensor:
    """Multiply every channel by 2^shift, in float64."""
    factors = torch.tensor([math.ldexp(1.0, shift) for shift in shifts.tolist()], dtype=torch.float64)
    return channels * factors.view(-1, *[1] * (channels.dim() - 1))


# Values compared at a time: few enough for scratch tensors to stay in the cache.
_BLOCK = 1 << 17


def _squared_errors(channels: Tensor, first: Tensor, base: OneScale, rounding: Rounding) -> Tensor:
    """Sum the (expected) squared errors of every channel at every scale tried, in units of the first one's step².

    Returns
    -------
    Tensor
        float64, shape ``(scales, channels)``.
    """
    formats = [shifted(base, finer) for finer in range(SMALLER_SCALES + 1)]
    errors = torch.zeros(len(formats), len(channels), dtype=torch.float64)
    rows = max(1, _BLOCK // max(1, channels.shape[1]))
    for top in range(0, len(channels), rows):
        some = slice(top, top + rows)
        for left in range(0, channels.shape[1], _BLOCK):
            block = _scaled(channels[some, left : left + _BLOCK], first[some])
            errors[:, some] += torch.stack([_squared_error(block, fmt, rounding) for fmt in formats])
    return errors


def _squared_error(values: Tensor, fmt: OneScale, rounding: Rounding) -> Tensor:
    """Sum the (expected) squared errors of every channel."""
    if not isinstance(fmt, FixedPoint) or rounding != "stochastic_rounding":
        return quantize(values, fmt, rounding).values.sub_(values).square_().sum(1)
    steps = values * math.ldexp(1.0, fmt.frac_bits)
    lower = steps.floor()
    up = steps - lower  # probability of the upper neighbour
    error_down = (lower.clamp(fmt.lowest_code, fmt.highest_code) - steps).square_()
    error_up = ((lower + 1).clamp_(fmt.lowest_code, fmt.highest_code) - steps).square_()
    return torch.lerp(error_down, error_up, up).sum(1) * fmt.step**2
