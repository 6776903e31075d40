from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcaps.errors import ArtifactError
from qcaps.quantization.formats import (
    FixedPoint,
    Float32,
    Logarithmic,
    NumberFormat,
    PerChannel,
    base_format,
    format_from_dict,
    format_to_dict,
    shifted,
)

FORMATS: st.SearchStrategy[NumberFormat] = st.one_of(
    st.builds(FixedPoint, st.integers(1, 16), st.integers(-100, 100)),
    st.builds(Logarithmic, st.integers(2, 8), st.integers(-100, 100)),
    st.just(Float32()),
)


@pytest.mark.parametrize(
    ("bits", "frac_bits", "integer_bits", "lowest", "highest", "step"),
    [
        (8, 7, 0, -1.0, 0.9921875, 0.0078125),
        (8, 4, 3, -8.0, 7.9375, 0.0625),
        (4, 6, -3, -0.125, 0.109375, 0.015625),
        (4, -2, 5, -32.0, 28.0, 4.0),
        (1, 0, 0, -1.0, 0.0, 1.0),
        (16, 0, 15, -32768.0, 32767.0, 1.0),
    ],
)
def test_fixed_point_has_the_range_of_two_s_complement(
    bits: int, frac_bits: int, integer_bits: int, lowest: float, highest: float, step: float
) -> None:
    fmt = FixedPoint(bits, frac_bits)
    assert (fmt.integer_bits, fmt.lowest, fmt.highest, fmt.step) == (integer_bits, lowest, highest, step)


@pytest.mark.parametrize(("bits", "exponents"), [(2, 1), (3, 3), (4, 7), (5, 15), (6, 31), (8, 127)])
def test_logarithmic_has_one_exponent_per_field_but_zero(bits: int, exponents: int) -> None:
    assert Logarithmic(bits, 0).exponents == exponents


def test_logarithmic_reaches_from_the_largest_exponent_down() -> None:
    fmt = Logarithmic(4, 2)
    assert (fmt.min_exponent, fmt.lowest, fmt.highest) == (-4, -4.0, 4.0)


def test_float32_has_32_bits() -> None:
    assert Float32().bits == 32


@pytest.mark.parametrize(("bits", "frac_bits"), [(0, 0), (17, 0), (8, 101), (8, -101)])
def test_fixed_point_out_of_range_is_refused(bits: int, frac_bits: int) -> None:
    with pytest.raises(ValueError, match="is not within"):
        FixedPoint(bits, frac_bits)


@pytest.mark.parametrize(("bits", "max_exponent"), [(1, 0), (9, 0), (4, 101), (4, -101)])
def test_logarithmic_out_of_range_is_refused(bits: int, max_exponent: int) -> None:
    with pytest.raises(ValueError, match="is not within"):
        Logarithmic(bits, max_exponent)


def test_a_channel_has_the_format_of_its_shift() -> None:
    assert PerChannel(FixedPoint(3, 0), (-2, 5)).channels == (FixedPoint(3, -2), FixedPoint(3, 5))
    assert PerChannel(Logarithmic(4, 0), (-2, 5)).channels == (Logarithmic(4, 2), Logarithmic(4, -5))


@given(FORMATS.filter(lambda fmt: not isinstance(fmt, Float32)))
def test_a_format_is_its_base_format_shifted(fmt: FixedPoint | Logarithmic) -> None:
    base = base_format(str(format_to_dict(fmt)["kind"]), fmt.bits)
    assert base.shifts == (0,)
    assert shifted(base, *fmt.shifts) == fmt
    assert fmt.highest == math.ldexp(base.highest, -fmt.shifts[0])


@pytest.mark.parametrize(
    ("base", "shifts"),
    [
        (FixedPoint(4, 0), ()),
        (FixedPoint(4, 0), (1, 101)),
        (Logarithmic(4, 0), (-101, 1)),
        (FixedPoint(4, 1), (0,)),
        (Logarithmic(4, -1), (0,)),
    ],
)
def test_channels_out_of_range_are_refused(base: FixedPoint | Logarithmic, shifts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"is not within|no channel"):
        PerChannel(base, shifts)


@given(FORMATS)
def test_a_format_survives_json(fmt: NumberFormat) -> None:
    assert format_from_dict(json.loads(json.dumps(format_to_dict(fmt))), where="header") == fmt


def test_the_plain_data_names_kind_width_and_scale() -> None:
    assert [format_to_dict(fmt) for fmt in (FixedPoint(8, -3), Logarithmic(4, 2), Float32())] == [
        {"kind": "fixed_point", "bits": 8, "frac_bits": -3},
        {"kind": "logarithmic", "bits": 4, "max_exponent": 2},
        {"kind": "float32", "bits": 32},
    ]


def test_the_plain_data_of_channels_lists_their_scales() -> None:
    fixed, logarithmic = PerChannel(FixedPoint(2, 0), (-3, 4)), PerChannel(Logarithmic(4, 0), (2, -1, 0))
    assert format_to_dict(fixed) == {"kind": "fixed_point", "bits": 2, "frac_bits": [-3, 4]}
    assert format_to_dict(logarithmic) == {"kind": "logarithmic", "bits": 4, "max_exponent": [-2, 1, 0]}


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "fixed_point",
        {},
        {1: 2},
        {"kind": "fixed_point", "bits": 8},
        {"kind": "fixed_point", "bits": 8, "frac_bits": 3, "extra": 0},
        {"kind": "fixed_point", "bits": 8, "max_exponent": 3},
        {"kind": "fixed_point", "bits": 17, "frac_bits": 3},
        {"kind": "fixed_point", "bits": 8, "frac_bits": 10**30},
        {"kind": "fixed_point", "bits": 8.0, "frac_bits": 3},
        {"kind": "fixed_point", "bits": True, "frac_bits": 3},
        {"kind": "fixed_point", "bits": "8", "frac_bits": 3},
        {"kind": "logarithmic", "bits": 9, "max_exponent": 0},
        {"kind": "fixed_point", "bits": 8, "frac_bits": [3]},
        {"kind": "fixed_point", "bits": 8, "channels": 2},
        {"kind": "float32"},
        {"kind": "float32", "bits": 16},
        {"kind": ["float32"], "bits": 32},
        {"bits": 32},
    ],
)
def test_anything_else_is_refused_with_its_place(data: object) -> None:
    with pytest.raises(ArtifactError, match=r"model\.pt: conv1\.weight"):
        format_from_dict(data, where="model.pt: conv1.weight")
