from __future__ import annotations

import math
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcaps.quantization import rounding as module
from qcaps.quantization.formats import FixedPoint, Float32, Logarithmic, PackedFormat, PerChannel, Rounding
from qcaps.quantization.rounding import decode, encode, quantize
from qcaps.registry import ROUNDINGS

DETERMINISTIC: list[Rounding] = ["round_to_nearest", "truncation"]
FIXED: list[Rounding] = [*DETERMINISTIC, "stochastic_rounding"]
FIXED_FORMATS = st.builds(FixedPoint, st.integers(1, 16), st.integers(-100, 100))
LOG_FORMATS = st.builds(Logarithmic, st.integers(2, 8), st.integers(-100, 100))
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, PackedFormat, Rounding, Tensor]:
    """Values around the range of a format, the format, a scheme that fits it, and draws."""
    rounding: Rounding = draw(st.sampled_from(get_args(Rounding)))
    fmt: PackedFormat = draw(LOG_FORMATS) if rounding == "logarithmic" else draw(FIXED_FORMATS)
    top = -fmt.lowest
    spread = st.floats(-3, 3, width=32) | st.sampled_from([0.0, -0.0, 0.5, 1.0, -1.0, 1e-20, -1e-20])
    x = torch.tensor([ratio * top for ratio in draw(st.lists(spread, max_size=20))])
    grains = draw(st.lists(st.integers(0, 2**24 - 1), min_size=len(x), max_size=len(x)))
    return x, fmt, rounding, torch.tensor(grains) / 2**24


def bits_of(values: Tensor) -> list[int]:
    """The float32 bit patterns, which tell -0 from 0."""
    return values.view(torch.int32).tolist()


# ---- the table of the specification ----

TABLE = [-2.5, -0.5, -0.2, 0.5, 1.5, 2.5]


@pytest.mark.parametrize("frac_bits", [-3, 0, 5, 60])
@pytest.mark.parametrize(
    ("rounding", "codes"),
    [("truncation", [-3, -1, -1, 0, 1, 2]), ("round_to_nearest", [-2, 0, 0, 0, 2, 2])],
)
def test_the_table_of_rounded_values(rounding: Rounding, codes: list[int], frac_bits: int) -> None:
    x = torch.tensor(TABLE) * 2.0**-frac_bits
    assert encode(x, FixedPoint(8, frac_bits), rounding)[0].tolist() == codes


@pytest.mark.parametrize(
    ("y", "upper", "probability"),
    [(-2.5, -2, 0.5), (-0.5, 0, 0.5), (-0.2, 0, 0.8), (0.5, 1, 0.5), (1.5, 2, 0.5), (2.5, 3, 0.5)],
)
def test_the_table_of_stochastic_probabilities(y: float, upper: int, probability: float) -> None:
    draws = (torch.arange(1000) + 0.5) / 1000
    codes = encode(torch.full((1000,), y), FixedPoint(8, 0), "stochastic_rounding", draws)[0]
    assert sorted(set(codes.tolist())) == [upper - 1, upper]
    assert (codes == upper).sum().item() == 1000 * probability


@pytest.mark.parametrize("draw", [0.0, 0.5, 1 - 2**-24])
def test_stochastic_rounding_never_moves_an_integer(draw: float) -> None:
    integers = torch.arange(-8.0, 8.0)
    codes, _ = encode(integers, FixedPoint(4, 0), "stochastic_rounding", torch.full((16,), draw))
    assert codes.tolist() == list(range(-8, 8))


# ---- exact fractions as oracle ----


@settings(deadline=None)
@given(FIXED_FORMATS, st.floats(-(2.0**17), 2.0**17, width=32) | st.integers(-70000, 70000).map(lambda k: k / 2))
def test_fixed_point_agrees_with_exact_fractions(fmt: FixedPoint, y: float) -> None:
    x = np.float32(math.ldexp(y, -fmt.frac_bits)).item()
    exact = Fraction(x) * Fraction(2) ** fmt.frac_bits
    assume(exact == 0 or abs(exact) >= Fraction(1, 2**149))
    lowest, highest = -(2 ** (fmt.bits - 1)), 2 ** (fmt.bits - 1) - 1
    for rounding in DETERMINISTIC:
        code = math.floor(exact) if rounding == "truncation" else round(exact)
        clamped = min(max(code, lowest), highest)
        codes, saturated = encode(torch.tensor([x]), fmt, rounding)
        assert (codes.item(), saturated) == (clamped, int(code != clamped))
        assert Fraction(decode(codes, fmt).item()) == clamped * Fraction(2) ** -fmt.frac_bits


@settings(deadline=None)
@given(st.integers(-(2**19), 2**19), st.integers(0, 2**24 - 1), st.integers(1, 9))
def test_stochastic_rounding_follows_its_rule_exactly(numerator: int, grain: int, bits: int) -> None:
    y, draw = Fraction(numerator, 2**10), Fraction(grain, 2**24)
    code = math.floor(y) + (draw < y - math.floor(y))
    clamped = min(max(code, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)
    x, draws = torch.tensor([float(y)]), torch.tensor([float(draw)])
    codes, saturated = encode(x, FixedPoint(bits, 0), "stochastic_rounding", draws)
    assert (codes.item(), saturated) == (clamped, int(code != clamped))


def logarithmic_oracle(x: float, fmt: Logarithmic) -> tuple[Fraction, bool]:
    """Value and saturation from the definition, in exact arithmetic."""
    if x == 0:
        return Fraction(0), False
    magnitude = abs(Fraction(x))
    exponent = math.frexp(x)[1] - 1
    if (magnitude / Fraction(2) ** exponent) ** 2 > 2:
        exponent += 1
    saturated = exponent > fmt.max_exponent
    exponent = min(exponent, fmt.max_exponent)
    if exponent < max(fmt.max_exponent - 2 ** (fmt.bits - 1) + 2, -126):
        return Fraction(0), saturated
    return (1 if x > 0 else -1) * Fraction(2) ** exponent, saturated


@settings(deadline=None, max_examples=300)
@given(LOG_FORMATS, FLOATS)
def test_logarithmic_agrees_with_exact_fractions(fmt: Logarithmic, x: float) -> None:
    value, saturated = logarithmic_oracle(x, fmt)
    rounded = quantize(torch.tensor([x]), fmt, "logarithmic")
    assert (Fraction(rounded.values.item()), rounded.saturated) == (value, int(saturated))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("exponent", [-128, -127, -126, -125, -60, -1, 0, 1, 60])
def test_neighbours_of_the_boundary_fall_on_the_right_sides(exponent: int, dtype: type) -> None:
    fmt = Logarithmic(8, min(exponent + 60, 100))
    x = dtype(math.ldexp(math.sqrt(2), exponent))
    neighbours = [x]
    for _ in range(3):
        neighbours.append(np.nextafter(neighbours[-1], dtype(np.inf)))
        neighbours.insert(0, np.nextafter(neighbours[0], dtype(0)))
    rounded = quantize(torch.from_numpy(np.array(neighbours)), fmt, "logarithmic").values.tolist()
    expected = [logarithmic_oracle(value.item(), fmt)[0] for value in neighbours]
    assert rounded == expected


# ---- moments ----


@pytest.mark.parametrize(
    ("rounding", "mean", "square"),
    [("truncation", -1 / 2, 1 / 3), ("round_to_nearest", 0, 1 / 12), ("stochastic_rounding", 0, 1 / 6)],
)
def test_the_error_has_the_moments_of_the_table(rounding: Rounding, mean: float, square: float) -> None:
    count, step = 2**18, 2.0**-4
    x = ((torch.arange(count, dtype=torch.float64) + 0.5) / count * 64 - 32) * step
    draws = torch.rand(count, generator=torch.Generator().manual_seed(1))
    errors = (quantize(x, FixedPoint(7, 4), rounding, draws).values - x) / step
    assert errors.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(square / count))
    assert errors.square().mean().item() == pytest.approx(square, abs=5 / math.sqrt(count))


def test_logarithmic_rounding_of_log_uniform_data_is_two_percent_high() -> None:
    x = torch.exp2((torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16 * 4 - 2)
    ratio = quantize(x, Logarithmic(5, 4), "logarithmic").values / x
    assert ratio.mean().item() == pytest.approx((math.sqrt(2) - math.sqrt(0.5)) / math.log(2), abs=1e-4)
    assert (ratio - 1).square().mean().sqrt().item() == pytest.approx(0.204, abs=5e-4)
    assert (ratio.min().item(), ratio.max().item()) == pytest.approx((2**-0.5, 2**0.5), abs=1e-4)


def test_logarithmic_rounding_inside_one_cell_has_its_published_moments() -> None:
    low, high = math.sqrt(0.5), math.sqrt(2)
    x = low + (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16 * (high - low)
    errors = quantize(x, Logarithmic(5, 4), "logarithmic").values - x
    assert errors.mean().item() == pytest.approx(-0.0607, abs=5e-5)
    assert errors.square().mean().item() == pytest.approx(0.0453, abs=5e-5)


# ---- properties of every scheme ----


@settings(deadline=None)
@given(cases())
def test_quantize_is_decode_of_encode_bit_for_bit(
    case: tuple[Tensor, PackedFormat, Rounding, Tensor],
) -> None:
    x, fmt, rounding, draws = case
    codes, saturated = encode(x, fmt, rounding, draws)
    rounded = quantize(x, fmt, rounding, draws)
    assert bits_of(rounded.values) == bits_of(decode(codes, fmt))
    assert rounded.saturated == saturated


@settings(deadline=None)
@given(cases())
def test_rounding_twice_changes_nothing(case: tuple[Tensor, PackedFormat, Rounding, Tensor]) -> None:
    x, fmt, rounding, draws = case
    once = quantize(x, fmt, rounding, draws).values
    twice = quantize(once, fmt, rounding, draws)
    assert (twice.values.tolist(), twice.saturated) == (once.tolist(), 0)


@settings(deadline=None)
@given(cases())
def test_all_but_stochastic_rounding_are_monotone(
    case: tuple[Tensor, PackedFormat, Rounding, Tensor],
) -> None:
    x, fmt, rounding, _ = case
    assume(rounding != "stochastic_rounding")
    rounded = quantize(x.sort().values, fmt, rounding).values.tolist()
    assert rounded == sorted(rounded)


@settings(deadline=None)
@given(cases())
def test_codes_stay_within_the_format(case: tuple[Tensor, PackedFormat, Rounding, Tensor]) -> None:
    x, fmt, rounding, draws = case
    codes, _ = encode(x, fmt, rounding, draws)
    half = 2 ** (fmt.bits - 1)
    allowed = range(2 * half) if rounding == "logarithmic" else range(-half, half)
    assert set(codes.tolist()) <= set(allowed) - ({half} if rounding == "logarithmic" else set())


@pytest.mark.parametrize("rounding", FIXED)
def test_values_outside_the_range_hit_the_end_codes_and_are_counted(rounding: Rounding) -> None:
    x = torch.tensor([-1e30, -9.1, -8.0, 0.0, 7.0, 8.0, 1e30])
    codes, saturated = encode(x, FixedPoint(4, 0), rounding, torch.full((7,), 0.95))
    assert codes.tolist() == [-8, -8, -8, 0, 7, 7, 7]
    assert saturated == 4


@pytest.mark.parametrize("rounding", FIXED)
def test_a_value_whose_scaling_overflows_hits_the_end_code(rounding: Rounding) -> None:
    codes, saturated = encode(torch.tensor([-1e30, 1e30]), FixedPoint(4, 100), rounding, torch.zeros(2))
    assert (codes.tolist(), saturated) == ([-8, 7], 2)


def test_logarithmic_values_above_the_range_are_clamped_and_counted() -> None:
    x = torch.tensor([-1e30, -1.5, -1.4, 1.4, 1.5, 3e38])
    rounded = quantize(x, Logarithmic(4, 0), "logarithmic")
    assert (rounded.values.tolist(), rounded.saturated) == ([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], 4)


def test_a_draw_that_leaves_the_range_counts_as_saturation() -> None:
    x, draws = torch.tensor([7.5, 7.5, -8.5, -8.5]), torch.tensor([0.4, 0.6, 0.4, 0.6])
    codes, saturated = encode(x, FixedPoint(4, 0), "stochastic_rounding", draws)
    assert (codes.tolist(), saturated) == ([7, 7, -8, -8], 2)


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("rounding", FIXED)
def test_every_fixed_point_code_comes_back(rounding: Rounding, bits: int) -> None:
    codes = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype=torch.int32)
    fmt = FixedPoint(bits, -100 if bits % 2 else 100)
    again, saturated = encode(decode(codes, fmt), fmt, rounding, torch.full((len(codes),), 0.5))
    assert torch.equal(again, codes)
    assert saturated == 0


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_logarithmic_format_has_all_its_values_and_all_come_back(bits: int) -> None:
    fmt = Logarithmic(bits, 3)
    codes = torch.tensor([code for code in range(2**bits) if code != 2 ** (bits - 1)])
    values = decode(codes, fmt)
    assert len(set(values.tolist())) == 2**bits - 1
    assert torch.equal(encode(values, fmt, "logarithmic")[0], codes.to(torch.int32))


def test_logarithmic_codes_are_the_sign_and_one_plus_the_distance_from_the_smallest_exponent() -> None:
    x = torch.tensor([0.0, 0.125, 0.25, 8.0, -0.125, -8.0])  # 4 bits up to 2^3: fields 1 to 7 are 2^-3 to 2^3
    assert encode(x, Logarithmic(4, 3), "logarithmic")[0].tolist() == [0, 1, 2, 7, 9, 15]


def test_logarithmic_values_below_the_normal_range_are_flushed() -> None:
    fmt = Logarithmic(8, -50)  # exponents down to -176
    x = torch.tensor([2.0**-126, 2.0**-127, -(2.0**-140)])
    assert quantize(x, fmt, "logarithmic").values.tolist() == [2.0**-126, 0.0, 0.0]
    assert decode(torch.tensor([1, 50, 51]), fmt).tolist() == [0.0, 0.0, 2.0**-126]


def test_the_invalid_logarithmic_code_is_no_number() -> None:
    assert math.isnan(decode(torch.tensor([8]), Logarithmic(4, 0)).item())


@pytest.mark.parametrize("rounding", get_args(Rounding))
def test_zero_and_minus_zero_give_zero(rounding: Rounding) -> None:
    fmt = Logarithmic(4, 0) if rounding == "logarithmic" else FixedPoint(4, 2)
    rounded = quantize(torch.tensor([0.0, -0.0, 1.0]), fmt, rounding, torch.zeros(3))
    assert bits_of(rounded.values)[:2] == [0, 0]


def test_a_negative_value_rounded_to_zero_is_plain_zero() -> None:
    rounded = quantize(torch.tensor([-0.25]), FixedPoint(4, 0), "round_to_nearest")
    assert bits_of(rounded.values) == [0]


def test_one_bit_has_the_codes_minus_one_and_zero() -> None:
    x = torch.tensor([-3.0, -0.75, -0.25, 0.25, 0.75])
    assert encode(x, FixedPoint(1, 0), "round_to_nearest")[0].tolist() == [-1, -1, 0, 0, 0]


# ---- a scale per channel ----


@st.composite
def channel_cases(draw: st.DrawFn) -> tuple[Tensor, PerChannel, Rounding, Tensor]:
    """Values of all sizes in a few channels, a format for them, a scheme that fits it, and draws."""
    rounding: Rounding = draw(st.sampled_from(get_args(Rounding)))
    bits = draw(st.integers(2, 8) if rounding == "logarithmic" else st.integers(1, 16))
    base = Logarithmic(bits, 0) if rounding == "logarithmic" else FixedPoint(bits, 0)
    fmt = PerChannel(base, tuple(draw(st.lists(st.integers(-100, 100), min_size=1, max_size=4))))
    columns = draw(st.integers(0, 5))
    near = st.builds(lambda ratio, one: ratio * one.lowest, st.floats(-3, 3), st.sampled_from(fmt.channels))
    value = FLOATS | near.map(lambda x: np.float32(x).item())
    count = len(fmt.shifts) * columns
    x = torch.tensor(draw(st.lists(value, min_size=count, max_size=count)))
    grains = draw(st.lists(st.integers(0, 2**24 - 1), min_size=count, max_size=count))
    return x.view(len(fmt.shifts), columns), fmt, rounding, torch.tensor(grains) / 2**24


@settings(deadline=None, max_examples=300)
@given(channel_cases())
def test_channels_are_rounded_as_a_loop_over_them_does(case: tuple[Tensor, PerChannel, Rounding, Tensor]) -> None:
    x, fmt, rounding, draws = case
    loop = [
        (quantize(row, one, rounding, u), encode(row, one, rounding, u)[0])
        for row, one, u in zip(x, fmt.channels, draws.view(x.shape), strict=True)
    ]
    rounded, (codes, saturated) = quantize(x, fmt, rounding, draws), encode(x, fmt, rounding, draws)
    assert bits_of(rounded.values) == [bits_of(one.values) for one, _ in loop]
    assert codes.tolist() == [one.tolist() for _, one in loop]
    assert rounded.saturated == saturated == sum(one.saturated for one, _ in loop)


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("shift", [-100, -30, -1, 0, 1, 30, 100])
def test_a_channel_is_flushed_on_the_same_side_as_a_tensor(shift: int, bits: int) -> None:
    fmt = PerChannel(Logarithmic(bits, 0), (shift,))
    (alone,) = fmt.channels
    boundary = np.float32(math.ldexp(math.sqrt(2), max(alone.min_exponent, -126) - 1))
    x = torch.tensor([np.nextafter(boundary, np.float32(0)), boundary, np.nextafter(boundary, np.float32(np.inf))])
    rounded = quantize(x.view(1, 3), fmt, "logarithmic").values
    assert bits_of(rounded[0]) == bits_of(quantize(x, alone, "logarithmic").values)
    assert rounded[0, 0] == 0 < rounded[0, 2]


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("kind", [FixedPoint, Logarithmic])
def test_channels_are_decoded_as_a_loop_over_them_does(kind: type, bits: int) -> None:
    if kind is Logarithmic and not 2 <= bits <= 8:
        return
    fmt = PerChannel(kind(bits, 0), (-100, -3, 0, 9, 50, 100))
    lowest = 0 if kind is Logarithmic else -(2 ** (bits - 1))
    codes = torch.arange(lowest, lowest + 2**bits, dtype=torch.int32).expand(6, -1)
    expected = torch.stack([decode(codes[0], one) for one in fmt.channels])
    assert bits_of(decode(codes, fmt)) == bits_of(expected)


@pytest.mark.parametrize("rounding", get_args(Rounding))
def test_channels_keep_shape_dtype_and_order_in_memory(rounding: Rounding) -> None:
    base = Logarithmic(4, 0) if rounding == "logarithmic" else FixedPoint(3, 0)
    x = torch.linspace(-2, 2, 120, dtype=torch.float64).view(5, 4, 3, 2).contiguous(memory_format=torch.channels_last)
    before, draws = x.clone(), torch.rand(120, generator=torch.Generator().manual_seed(1))
    fmt = PerChannel(base, (1, 2, 3, 4, 5))
    rounded = quantize(x, fmt, rounding, draws)
    assert torch.equal(x, before)
    assert (rounded.values.dtype, rounded.values.stride()) == (torch.float64, x.stride())
    assert torch.equal(rounded.values, quantize(x.contiguous(), fmt, rounding, draws).values)


def test_clamped_values_of_all_channels_are_counted() -> None:
    # three bits: -4 to 3 by hand, in steps of 1, 1/4 and 2
    x = torch.tensor([[3.4, 3.6, -4.4, -4.6], [0.8, 0.9, -1.1, -1.2], [6.9, 7.1, -9.1, 0.0]])
    rounded = quantize(x, PerChannel(FixedPoint(3, 0), (0, 2, -1)), "round_to_nearest")
    assert rounded.values.tolist() == [[3, 3, -4, -4], [0.75, 0.75, -1, -1], [6, 6, -8, 0]]
    assert rounded.saturated == 2 + 2 + 2


def test_a_channel_whose_scaling_overflows_hits_the_end_codes() -> None:
    fmt = PerChannel(FixedPoint(4, 0), (100, 0))
    codes, saturated = encode(torch.tensor([[-1e30, 1e30], [1.0, 2.0]]), fmt, "truncation")
    assert (codes.tolist(), saturated) == ([[-8, 7], [1, 2]], 2)


@pytest.mark.parametrize("shape", [(), (3,), (1, 2), (0, 2)])
def test_an_array_of_other_channels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="does not have 2 channels"):
        quantize(torch.ones(shape), PerChannel(FixedPoint(4, 0), (1, 2)), "truncation")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_in_a_channel_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        encode(torch.tensor([[1.0], [bad]]), PerChannel(FixedPoint(4, 0), (1, 2)), "truncation")


@pytest.mark.parametrize(("base", "rounding"), [(FixedPoint(4, 0), "logarithmic"), (Logarithmic(4, 0), "truncation")])
def test_a_scheme_that_does_not_fit_the_channels_is_refused(base: FixedPoint | Logarithmic, rounding: Rounding) -> None:
    with pytest.raises(ValueError, match="cannot round to"):
        quantize(torch.ones(1, 2), PerChannel(base, (1,)), rounding)


# ---- arrays ----


@pytest.mark.parametrize("rounding", get_args(Rounding))
def test_a_long_array_is_rounded_like_its_parts(rounding: Rounding) -> None:
    generator = torch.Generator().manual_seed(3)
    x, draws = torch.randn(600_000, generator=generator), torch.rand(600_000, generator=generator)
    fmt = Logarithmic(4, 0) if rounding == "logarithmic" else FixedPoint(6, 4)
    whole = quantize(x, fmt, rounding, draws)
    parts = [quantize(x[i : i + 7001], fmt, rounding, draws[i : i + 7001]) for i in range(0, 600_000, 7001)]
    assert torch.equal(whole.values, torch.cat([part.values for part in parts]))
    assert whole.saturated == sum(part.saturated for part in parts) > 1000


def test_draws_belong_to_values_in_row_major_order_whatever_the_strides() -> None:
    x = torch.tensor([[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]]).t()  # (2, 3)
    draws = torch.tensor([0.1, 0.9, 0.1, 0.9, 0.9, 0.1])
    codes, _ = encode(x, FixedPoint(4, 0), "stochastic_rounding", draws)
    assert codes.tolist() == [[1, 2, 5], [1, 3, 6]]


@pytest.mark.parametrize("rounding", get_args(Rounding))
def test_shape_and_dtype_stay_and_the_input_is_left_alone(rounding: Rounding) -> None:
    fmt = Logarithmic(4, 0) if rounding == "logarithmic" else FixedPoint(3, 2)
    x = torch.linspace(-2, 2, 24, dtype=torch.float64).view(2, 3, 4)
    before = x.clone()
    rounded = quantize(x, fmt, rounding, torch.full((24,), 0.5))
    assert (rounded.values.shape, rounded.values.dtype) == ((2, 3, 4), torch.float64)
    assert torch.equal(x, before)


@pytest.mark.parametrize("rounding", get_args(Rounding))
def test_an_empty_array_stays_empty(rounding: Rounding) -> None:
    fmt = Logarithmic(4, 0) if rounding == "logarithmic" else FixedPoint(4, 2)
    rounded = quantize(torch.empty(0, 3), fmt, rounding, torch.empty(0))
    assert (rounded.values.shape, rounded.saturated) == ((0, 3), 0)


def test_float32_gives_the_values_back() -> None:
    x = torch.tensor([0.1, -0.0, 1e30])
    rounded = quantize(x, Float32(), "truncation")
    assert (bits_of(rounded.values), rounded.saturated) == (bits_of(x), 0)


@pytest.mark.parametrize(
    ("fmt", "rounding", "expected"),
    [(FixedPoint(4, 1), "round_to_nearest", [0.5, 3.5]), (Logarithmic(4, 0), "logarithmic", [0.5, 1.0])],
)
def test_a_parameter_can_be_rounded_and_needs_no_gradient_afterwards(
    fmt: PackedFormat, rounding: Rounding, expected: list[float]
) -> None:
    weight = torch.nn.Parameter(torch.tensor([0.4, 6.0]))
    rounded = quantize(weight, fmt, rounding).values
    assert (rounded.tolist(), rounded.requires_grad) == (expected, False)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("fmt", [FixedPoint(4, 2), Logarithmic(4, 0), Float32()])
def test_nan_and_infinity_are_refused(fmt: FixedPoint | Logarithmic | Float32, bad: float) -> None:
    rounding: Rounding = "logarithmic" if isinstance(fmt, Logarithmic) else "round_to_nearest"
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantize(torch.tensor([1.0, bad, 2.0]), fmt, rounding)


@pytest.mark.parametrize(
    ("fmt", "rounding"),
    [
        (Logarithmic(4, 0), "round_to_nearest"),
        (FixedPoint(4, 0), "logarithmic"),
    ],
)
def test_a_scheme_that_does_not_fit_the_format_is_refused(fmt: PackedFormat, rounding: Rounding) -> None:
    with pytest.raises(ValueError, match="cannot round to"):
        quantize(torch.ones(2), fmt, rounding)


def test_stochastic_rounding_without_draws_is_refused() -> None:
    with pytest.raises(ValueError, match="needs draws"):
        quantize(torch.ones(2), FixedPoint(4, 0), "stochastic_rounding")


def test_every_registered_scheme_is_a_function_of_this_module() -> None:
    assert set(ROUNDINGS.names()) == set(get_args(Rounding))
    assert [ROUNDINGS.load(name) for name in ROUNDINGS.names()] == [
        module.round_to_nearest,
        module.stochastic_rounding,
        module.truncation,
        module.logarithmic,
    ]
