"""The number formats a site can have, and their plain-data form in file headers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from qcaps.errors import ArtifactError, quoted

Rounding = Literal["round_to_nearest", "stochastic_rounding", "truncation", "logarithmic"]

# Within this limit every scale fits one signed byte, and code times step is an exact, normal float32.
SCALE_LIMIT = 100


@dataclass(frozen=True)
class FixedPoint:
    """Two's complement integers times a power-of-two step.

    Parameters
    ----------
    bits
        Total width n, sign included, 1 to 16. One bit has the codes -1 and 0.
    frac_bits
        f of the step 2^-f, -100 to 100; may be negative or larger than `bits`.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    bits: int
    frac_bits: int

    max_bits: ClassVar[int] = 16

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        _check("bits", self.bits, 1, self.max_bits)
        _check("frac_bits", self.frac_bits, -SCALE_LIMIT, SCALE_LIMIT)

    @property
    def shifts(self) -> tuple[int, ...]:
        """Give the power of two that brings values to the grid of scale exponent 0: one for all channels."""
        return (self.frac_bits,)

    @property
    def integer_bits(self) -> int:
        """Give i, the bits before the binary point without the sign; may be negative."""
        return self.bits - 1 - self.frac_bits

    @property
    def step(self) -> float:
        """Give the distance between neighbouring values."""
        return math.ldexp(1.0, -self.frac_bits)

    @property
    def lowest_code(self) -> int:
        """Give the code of the lowest value."""
        return -(1 << (self.bits - 1))

    @property
    def highest_code(self) -> int:
        """Give the code of the highest value."""
        return (1 << (self.bits - 1)) - 1

    @property
    def lowest(self) -> float:
        """Give the lowest value."""
        return self.lowest_code * self.step

    @property
    def highest(self) -> float:
        """Give the highest value: one step less than the lowest is deep."""
        return self.highest_code * self.step


@dataclass(frozen=True)
class Logarithmic:
    """Zero and signed powers of two: a sign bit and an exponent field.

    Parameters
    ----------
    bits
        Total width n, 2 to 8.
    max_exponent
        Exponent of the largest value, -100 to 100.

    Raises
    ------
    ValueError
        If a number is out of its range.

    Notes
    -----
    Field 0 is zero, field j ≥ 1 is 2^(min_exponent + j - 1): 2^n - 1 values. The code with the sign set and
    field 0 is invalid. More bits reach further down and never refine the grid.
    """

    bits: int
    max_exponent: int

    max_bits: ClassVar[int] = 8

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        _check("bits", self.bits, 2, self.max_bits)
        _check("max_exponent", self.max_exponent, -SCALE_LIMIT, SCALE_LIMIT)

    @property
    def shifts(self) -> tuple[int, ...]:
        """Give the power of two that brings values to the grid of scale exponent 0: one for all channels."""
        return (-self.max_exponent,)

    @property
    def exponents(self) -> int:
        """Give K, the number of exponents."""
        return (1 << (self.bits - 1)) - 1

    @property
    def min_exponent(self) -> int:
        """Give the exponent of field 1; below -126 its values are flushed to zero."""
        return self.max_exponent - self.exponents + 1

    @property
    def invalid_code(self) -> int:
        """Give the one code that stands for nothing: minus zero."""
        return 1 << (self.bits - 1)

    @property
    def lowest(self) -> float:
        """Give the lowest value."""
        return -self.highest

    @property
    def highest(self) -> float:
        """Give the highest value."""
        return math.ldexp(1.0, self.max_exponent)


@dataclass(frozen=True)
class Float32:
    """Values as they are: stored as float32 and never rounded."""

    bits: ClassVar[int] = 32


OneScale = FixedPoint | Logarithmic


@dataclass(frozen=True)
class PerChannel:
    """A scale for every channel, the first axis of a weight: x_c is rounded as x_c · 2^shift in the base format.

    Parameters
    ----------
    base
        The format common to all channels, of scale exponent 0.
    shifts
        One for each channel, -100 to 100: f of a fixed point format, minus the largest exponent of a logarithmic one.

    Raises
    ------
    ValueError
        If the base has another scale, a shift is out of its range, or there is none.
    """

    base: OneScale
    shifts: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        _check("scale of the base format", self.base.shifts[0], 0, 0)
        if not self.shifts:
            raise ValueError("there is no channel")
        for shift in self.shifts:
            _check("shift", shift, -SCALE_LIMIT, SCALE_LIMIT)

    @property
    def bits(self) -> int:
        """Give the width of a code."""
        return self.base.bits

    @property
    def channels(self) -> tuple[OneScale, ...]:
        """Give the format of every channel."""
        return tuple(shifted(self.base, shift) for shift in self.shifts)


PackedFormat = OneScale | PerChannel
NumberFormat = PackedFormat | Float32


def base_format(kind: str, bits: int) -> OneScale:
    """Give the format of a kind and width with scale exponent 0.

    Raises
    ------
    ValueError
        If there is no such kind with codes, or the width is out of its range.
    """
    match kind:
        case "fixed_point":
            return FixedPoint(bits, 0)
        case "logarithmic":
            return Logarithmic(bits, 0)
    raise ValueError(f"codes of the kind {quoted(kind)} are unknown")


def shifted(base: OneScale, shift: int) -> OneScale:
    """Give the format of the same kind and width whose values · 2^shift are those of scale exponent 0."""
    return FixedPoint(base.bits, shift) if isinstance(base, FixedPoint) else Logarithmic(base.bits, -shift)


def format_to_dict(number_format: NumberFormat) -> dict[str, str | int | list[int]]:
    """Give the plain-data form of a format: its kind, its width and its scale, or the list of its channels' scales."""
    match number_format:
        case FixedPoint(bits, frac_bits):
            return {"kind": "fixed_point", "bits": bits, "frac_bits": frac_bits}
        case Logarithmic(bits, max_exponent):
            return {"kind": "logarithmic", "bits": bits, "max_exponent": max_exponent}
        case PerChannel(base, shifts):
            if isinstance(base, FixedPoint):
                return {"kind": "fixed_point", "bits": base.bits, "frac_bits": list(shifts)}
            return {"kind": "logarithmic", "bits": base.bits, "max_exponent": [-shift for shift in shifts]}
        case Float32():
            return {"kind": "float32", "bits": Float32.bits}


def format_from_dict(data: object, *, where: str) -> NumberFormat:
    """Read the plain-data form of a format of one scale, or none, out of a file that a stranger may have written.

    Parameters
    ----------
    data
        Any decoded JSON value.
    where
        File and site, for the message.

    Raises
    ------
    ArtifactError
        If `data` is anything but what `format_to_dict` can have written of such a format.
    """
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ArtifactError("a number format is not a mapping", where=where)
    numbers = {key: value for key, value in data.items() if key != "kind"}
    if not all(type(value) is int for value in numbers.values()):
        raise ArtifactError("a number format holds something other than whole numbers", where=where)
    try:
        match data.get("kind"), sorted(numbers):
            case "fixed_point", ["bits", "frac_bits"]:
                return FixedPoint(numbers["bits"], numbers["frac_bits"])
            case "logarithmic", ["bits", "max_exponent"]:
                return Logarithmic(numbers["bits"], numbers["max_exponent"])
            case "float32", ["bits"] if numbers["bits"] == Float32.bits:
                return Float32()
    except ValueError as error:
        raise ArtifactError(str(error), where=where) from error
    raise ArtifactError(f"unknown number format {quoted(data)}", where=where)


def _check(name: str, value: int, lowest: int, highest: int) -> None:
    """Refuse a number outside ``lowest..highest``."""
    if not lowest <= value <= highest:
        raise ValueError(f"{name} {quoted(value)} is not within {lowest} to {highest}")
