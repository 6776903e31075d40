"""The four rounding schemes, and the way from values to codes and back.

A scheme places values on the unclamped grid of a format: integers for fixed point, signed powers of two for
the logarithmic format. `encode` and `quantize` both start there, so that the values judged during a search
are bit for bit the values that a file decodes to.

A format per channel is its base format on scaled values: scaling by a power of two is exact.

Arrays are float32 or float64 and are computed in their own dtype. A product x · 2^f below the smallest float
counts as 0, and the fraction that decides a stochastic draw is rounded like any other difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from qcaps.quantization.formats import (
    FixedPoint,
    Float32,
    Logarithmic,
    NumberFormat,
    OneScale,
    PackedFormat,
    PerChannel,
    Rounding,
)


@dataclass(frozen=True)
class Rounded:
    """Values rounded to a format, and how many of them were clamped to the ends of its range."""

    values: Tensor
    saturated: int


def quantize(x: Tensor, fmt: NumberFormat, rounding: Rounding, uniforms: Tensor | None = None) -> Rounded:
    """Round an array to the values of a format: ``decode(encode(x))`` without the detour over codes.

    Parameters
    ----------
    x
        Any shape, float32 or float64. No gradient flows through.
    fmt
        `Float32` gives `x` back as it is.
    rounding
        `logarithmic` belongs to the `Logarithmic` format, every other scheme to `FixedPoint`.
    uniforms
        One draw in [0, 1) per value, in row-major order; for `stochastic_rounding` only.

    Returns
    -------
    Rounded
        Values in the shape and dtype of `x`, never -0.

    Raises
    ------
    ValueError
        If `x` holds NaN or infinity or has other channels than the format, or if the scheme does not fit the format or
        lacks its draws.
    """
    if isinstance(fmt, PerChannel):
        rounded = quantize(to_base(x, fmt), fmt.base, rounding, uniforms)
        return Rounded(_from_base(rounded.values, fmt), rounded.saturated)
    ends = _finite_ends(x)
    if isinstance(fmt, Float32):
        return Rounded(x, 0)
    grid, saturated = _clamped(x, ends, fmt, rounding, uniforms)
    if isinstance(fmt, FixedPoint):
        grid.mul_(fmt.step).add_(0.0)  # the sum turns -0 into the 0 that its code stands for
    return Rounded(grid, saturated)


def encode(x: Tensor, fmt: PackedFormat, rounding: Rounding, uniforms: Tensor | None = None) -> tuple[Tensor, int]:
    """Round an array to integer codes; parameters and errors as for `quantize`.

    Returns
    -------
    tuple
        Codes as int32 in the shape of `x`, and the number of clamped values. Fixed point: k from -2^(n-1) to
        2^(n-1) - 1. Logarithmic: sign · 2^(n-1) + field.
    """
    if isinstance(fmt, PerChannel):
        return encode(to_base(x, fmt), fmt.base, rounding, uniforms)
    grid, saturated = _clamped(x, _finite_ends(x), fmt, rounding, uniforms)
    if isinstance(fmt, FixedPoint):
        return grid.to(torch.int32), saturated
    exponent = torch.frexp(grid).exponent - 1
    field = torch.where(grid == 0, 0, exponent - fmt.min_exponent + 1)
    return torch.where(grid < 0, field + fmt.invalid_code, field), saturated


def decode(codes: Tensor, fmt: PackedFormat) -> Tensor:
    """Turn integer codes into the float32 values they stand for, exactly.

    Parameters
    ----------
    codes
        Any integer dtype and shape, each within the format; the invalid logarithmic code becomes NaN.
    fmt
        The format that the codes were made with.
    """
    if isinstance(fmt, PerChannel):
        return _from_base(decode(codes, fmt.base), fmt)
    if isinstance(fmt, FixedPoint):
        return codes.to(torch.float32) * fmt.step
    exponents = range(fmt.min_exponent, fmt.max_exponent + 1)
    powers = [math.ldexp(1.0, exponent) if exponent >= -126 else 0.0 for exponent in exponents]
    negative = [-power if power else 0.0 for power in powers]
    values = torch.tensor([0.0, *powers, math.nan, *negative], dtype=torch.float32, device=codes.device)
    return values[codes.long()]


def to_base(x: Tensor, fmt: PerChannel) -> Tensor:
    """Scale every channel so that the base format rounds it as the format of the channel would.

    Raises
    ------
    ValueError
        If `x` holds NaN or infinity, or has other channels than the format.
    """
    if x.shape[:1] != (len(fmt.shifts),):
        raise ValueError(f"an array of shape {tuple(x.shape)} does not have {len(fmt.shifts)} channels")
    _finite_ends(x)
    x = x.detach()
    if isinstance(fmt.base, Logarithmic):
        x = logarithmic(x, _POWERS)  # what scaling may push below the normal numbers has to be a power by then
    largest = torch.finfo(x.dtype).max
    return (x * _powers_of_two(fmt.shifts, x)).clamp_(-largest, largest)  # the base clamps what overflows


def _from_base(values: Tensor, fmt: PerChannel) -> Tensor:
    """Undo `to_base` on rounded values, in place where it can be."""
    values.mul_(_powers_of_two((-shift for shift in fmt.shifts), values))
    if isinstance(fmt.base, Logarithmic):
        return torch.nn.functional.hardshrink(values, 2.0**-127)  # flushes what falls below 2^-126
    return values


def _powers_of_two(exponents: Iterable[int], like: Tensor) -> Tensor:
    """Make a factor for every channel of an array."""
    return like.new_tensor([math.ldexp(1.0, e) for e in exponents]).view(-1, *[1] * (like.dim() - 1))


# All the powers of two that a rounded value can be.
_POWERS = Logarithmic(8, 0)


def round_to_nearest(x: Tensor, fmt: FixedPoint) -> Tensor:
    """Scale to steps and round to the nearest integer, ties to even; not clamped."""
    return _in_steps(x, fmt).round_()


def truncation(x: Tensor, fmt: FixedPoint) -> Tensor:
    """Scale to steps and round down, negative values away from zero; not clamped."""
    return _in_steps(x, fmt).floor_()


def stochastic_rounding(x: Tensor, fmt: FixedPoint, uniforms: Tensor) -> Tensor:
    """Scale to steps and round up with the probability of the fraction; not clamped.

    Parameters
    ----------
    x
        Any shape.
    fmt
        Gives the step.
    uniforms
        As many draws in [0, 1) as `x` has values; a value goes up where its draw is below its fraction.
    """
    fraction = _in_steps(x, fmt)
    lower = fraction.floor()
    fraction -= lower
    return lower.add_(fraction.gt_(uniforms.reshape(x.shape)))


def logarithmic(x: Tensor, fmt: Logarithmic) -> Tensor:
    """Round to the nearest power of two in the log domain, keeping the sign; not clamped above.

    Notes
    -----
    |x| = m · 2^e goes to 2^e where m² < 2 and to 2^(e + 1) elsewhere. Powers below ``min_exponent`` or 2^-126
    become 0. The boundary √2 is decided on the bits: adding the distance from it to 2 to the stored mantissa
    carries into the exponent exactly where m² > 2, and no m² equals 2.
    """
    integer, mantissa_bits = _BIT_LAYOUTS[x.dtype]
    lowest = max(fmt.min_exponent, -126)
    kept = torch.nn.functional.hardshrink(x, _below_root(lowest, x.dtype))
    bits = kept.view(integer)
    last_below = math.isqrt(1 << (2 * mantissa_bits + 1))  # largest mantissa, leading 1 included, with m² < 2
    bits += (1 << (mantissa_bits + 1)) - 1 - last_below
    bits &= -(1 << mantissa_bits)
    return kept


def _finite_ends(x: Tensor) -> Tensor:
    """Find the smallest and the largest value, one pass that meets NaN and infinity as well."""
    if x.numel() == 0:
        return x.new_zeros(2)
    ends = torch.stack(torch.aminmax(x))
    if not all(math.isfinite(end) for end in ends.tolist()):
        raise ValueError("the array holds NaN or infinity")
    return ends


def _clamped(x: Tensor, ends: Tensor, fmt: OneScale, rounding: Rounding, uniforms: Tensor | None) -> tuple[Tensor, int]:
    """Round and clamp, block by block; count only where the two ends say that it is needed."""
    lowest, highest = _range(fmt)
    # Draws of 1 and 0 send the smallest value down and the largest up, as far as any draw could.
    first, last = unclamped(ends, fmt, rounding, ends.new_tensor([1.0, 0.0])).tolist()
    fits = lowest <= first and last <= highest
    x, draws = x.detach(), None
    if torch.empty_like(x).stride() != x.stride():  # x overlaps itself or has gaps
        x = x.contiguous()
    grid = torch.empty_like(x)
    if uniforms is not None:
        draws = _in_memory_order(torch.empty_like(x).copy_(uniforms.reshape(x.shape)))
    values, targets = _in_memory_order(x), _in_memory_order(grid)
    counts = []
    for start in range(0, len(values), _BLOCK):
        block = slice(start, start + _BLOCK)
        rounded = unclamped(values[block], fmt, rounding, None if draws is None else draws[block])
        target = torch.clamp(rounded, lowest, highest, out=targets[block])
        if not fits:
            counts.append(torch.ne(rounded, target, out=rounded).sum())  # as floats: faster than booleans
    return grid, int(torch.stack(counts).sum(dtype=torch.float64)) if counts else 0


# Values rounded at a time: few enough for scratch tensors to stay in the cache, and for exact float counts.
_BLOCK = 1 << 18


def _in_memory_order(x: Tensor) -> Tensor:
    """View a tensor without gaps as one row, so that channels-last arrays need no copy."""
    return x.as_strided((x.numel(),), (1,))


def _range(fmt: OneScale) -> tuple[float, float]:
    """Give the ends of the grid that the schemes round to."""
    if isinstance(fmt, FixedPoint):
        return fmt.lowest_code, fmt.highest_code
    return fmt.lowest, fmt.highest


def unclamped(x: Tensor, fmt: OneScale, rounding: Rounding, uniforms: Tensor | None = None) -> Tensor:
    """Place values on the grid of a format by the scheme named `rounding`; errors as for `quantize`."""
    match fmt, rounding:
        case FixedPoint(), "round_to_nearest":
            return round_to_nearest(x, fmt)
        case FixedPoint(), "truncation":
            return truncation(x, fmt)
        case FixedPoint(), "stochastic_rounding":
            if uniforms is None:
                raise ValueError("stochastic rounding needs draws")
            return stochastic_rounding(x, fmt, uniforms)
        case Logarithmic(), "logarithmic":
            return logarithmic(x, fmt)
    raise ValueError(f"{rounding} cannot round to {fmt}")


def _in_steps(x: Tensor, fmt: FixedPoint) -> Tensor:
    """Give x · 2^f in a fresh tensor."""
    return x * math.ldexp(1.0, fmt.frac_bits)


# Integer dtype of the same size, and stored mantissa bits.
_BIT_LAYOUTS = {torch.float32: (torch.int32, 23), torch.float64: (torch.int64, 52)}


def _below_root(exponent: int, dtype: torch.dtype) -> float:
    """Give the largest float of `dtype` below √2 · 2^(exponent - 1), which is where `exponent` begins."""
    mantissa_bits = _BIT_LAYOUTS[dtype][1]
    if exponent == -126 and dtype == torch.float32:
        mantissa_bits -= 1  # the boundary lies among the subnormals, which have one bit less here
    return math.ldexp(math.isqrt(1 << (2 * mantissa_bits + 1)), exponent - 1 - mantissa_bits)
