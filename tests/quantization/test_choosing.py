from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qcaps.quantization import choosing
from qcaps.quantization.choosing import choose_channel_formats, choose_format
from qcaps.quantization.formats import FixedPoint, Float32, Logarithmic, PerChannel, Rounding
from qcaps.quantization.rounding import quantize

FIXED: list[Rounding] = ["round_to_nearest", "truncation", "stochastic_rounding"]
SCHEMES: list[Rounding] = [*FIXED, "logarithmic"]


def code_of(y: Fraction, rounding: Rounding) -> int:
    """The code before the clamp; the upper one for stochastic rounding."""
    match rounding:
        case "truncation":
            return math.floor(y)
        case "round_to_nearest":
            return round(y)
        case _:
            return math.ceil(y)


def squared_error(values: list[Fraction], bits: int, frac_bits: int, rounding: Rounding) -> Fraction:
    """The expected squared error, from the definition."""
    step = Fraction(2) ** -frac_bits
    total = Fraction(0)
    for value in values:
        y = value / step
        if rounding == "stochastic_rounding":
            up = y - math.floor(y)
            outcomes = [(1 - up, math.floor(y)), (up, math.floor(y) + 1)]
        else:
            outcomes = [(Fraction(1), code_of(y, rounding))]
        for probability, code in outcomes:
            clamped = min(max(code, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)
            total += probability * (clamped * step - value) ** 2
    return total


def chosen_by_definition(values: list[Fraction], largest: Fraction, bits: int, rounding: Rounding) -> FixedPoint:
    """Try every scale for the smallest range that holds, then the three below it."""
    if bits == 1:
        held = [f for f in range(-100, 101) if code_of(-largest * Fraction(2) ** f, rounding) >= -1]
    else:
        top = 2 ** (bits - 1) - 1
        held = [f for f in range(-100, 101) if code_of(largest * Fraction(2) ** f, rounding) <= top]
    tried = range(max(held), max(held) + 4)
    return FixedPoint(bits, min(tried, key=lambda f: (squared_error(values, bits, f, rounding), f)))


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(-256, 256).map(lambda k: Fraction(k, 16)), min_size=1, max_size=12),
    st.integers(0, 64).map(lambda k: Fraction(k, 16)),
    st.integers(1, 8),
    st.sampled_from(FIXED),
)
def test_the_choice_follows_its_definition(
    values: list[Fraction], beyond: Fraction, bits: int, rounding: Rounding
) -> None:
    largest = max(abs(value) for value in values) + beyond
    if largest == 0:
        largest = Fraction(1)
    sample = torch.tensor([float(value) for value in values])
    expected = chosen_by_definition(values, largest, bits, rounding)
    assert choose_format(sample, float(largest), bits, rounding) == expected


@pytest.mark.parametrize(
    ("largest", "rounding", "integer_bits"),
    [
        (0.99, "truncation", 0),
        (1.0, "truncation", 1),
        (0.937, "round_to_nearest", 0),  # 7.496 rounds to 7
        (0.9375, "round_to_nearest", 1),  # 7.5 rounds to 8
        (0.88, "stochastic_rounding", 1),  # 7.04 may become 8
        (0.875, "stochastic_rounding", 0),
        (9.75, "truncation", 4),
        (846.0, "truncation", 10),
        (0.03125, "truncation", -4),
    ],
)
def test_the_range_holds_the_largest_value_after_rounding(
    largest: float, rounding: Rounding, integer_bits: int
) -> None:
    # a sample of zeros ties for every scale, so the largest range shows
    fmt = choose_format(torch.zeros(5), largest, 4, rounding)
    assert isinstance(fmt, FixedPoint)
    assert fmt.integer_bits == integer_bits


def test_a_rare_outlier_is_clamped_for_a_finer_step() -> None:
    values = torch.cat([torch.linspace(-1, 1, 10_000), torch.tensor([7.9])])
    fmt = choose_format(values, 7.9, 4, "round_to_nearest")
    assert isinstance(fmt, FixedPoint)
    assert fmt.integer_bits == 1


def test_no_more_than_three_smaller_scales_are_tried() -> None:
    fmt = choose_format(torch.linspace(-0.2, 0.2, 1000), 100.0, 8, "round_to_nearest")
    assert isinstance(fmt, FixedPoint)
    assert fmt.integer_bits == 7 - 3


@pytest.mark.parametrize("rounding", FIXED)
def test_a_tie_goes_to_the_larger_range(rounding: Rounding) -> None:
    # an eighth is a value of all four formats with 6 to 9 fractional bits
    assert choose_format(torch.tensor([0.125, -0.125]), 1.0, 8, rounding) == FixedPoint(8, 6)


@pytest.mark.parametrize("fan_in", [10, 32, 128, 512])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_uniform_coupling_survives_truncation(bits: int, fan_in: int) -> None:
    coupling = torch.full((fan_in,), 1 / fan_in)
    fmt = choose_format(coupling, 1 / fan_in, bits, "truncation")
    assert quantize(coupling, fmt, "truncation").values.min().item() > 0


def logarithmic_error(values: list[float], bits: int, top: int) -> float:
    """The squared error of rounding to powers of two, by a search in the log domain."""
    exponents = range(top - 2 ** (bits - 1) + 2, top + 1)
    total = 0.0
    for value in values:
        nearest = round(math.log2(abs(value))) if value else exponents[0] - 1
        power = 2.0 ** min(nearest, top) if nearest >= exponents[0] else 0.0
        total += (math.copysign(power, value) - value) ** 2
    return total


@settings(deadline=None)
@given(st.lists(st.integers(-60, 60).filter(bool), min_size=1, max_size=12), st.integers(2, 8))
def test_the_logarithmic_choice_is_the_best_of_four(numerators: list[int], bits: int) -> None:
    values = [k / 16 for k in numerators]
    largest = max(map(abs, values))
    start = round(math.log2(largest))
    tried = [start, start - 1, start - 2, start - 3]
    best = min(tried, key=lambda top: logarithmic_error(values, bits, top))
    assert choose_format(torch.tensor(values), largest, bits, "logarithmic") == Logarithmic(bits, best)


def test_many_small_values_lower_the_largest_exponent() -> None:
    values = torch.cat([torch.full((1000,), 1.0), torch.tensor([4.0])])
    assert choose_format(values, 4.0, 2, "logarithmic") == Logarithmic(2, 0)


@pytest.mark.parametrize(("rounding", "bits"), [(r, b) for r in FIXED for b in (17, 24, 32)] + [("logarithmic", 9)])
def test_widths_that_cannot_be_packed_stay_float(rounding: Rounding, bits: int) -> None:
    assert choose_format(torch.ones(3), 1.0, bits, rounding) == Float32()


@pytest.mark.parametrize("rounding", FIXED)
def test_zeros_get_no_integer_bits(rounding: Rounding) -> None:
    assert choose_format(torch.zeros(3), 0.0, 6, rounding) == FixedPoint(6, 5)


def test_zeros_get_the_largest_power_one() -> None:
    assert choose_format(torch.zeros(3), 0.0, 6, "logarithmic") == Logarithmic(6, 0)


@pytest.mark.parametrize(
    ("largest", "rounding", "expected"),
    [
        (1e-40, "round_to_nearest", FixedPoint(8, 100)),
        (3e38, "round_to_nearest", FixedPoint(8, -100)),
        (1e-40, "logarithmic", Logarithmic(4, -100)),
        (3e38, "logarithmic", Logarithmic(4, 100)),
    ],
)
def test_scales_stay_within_what_files_can_hold(
    largest: float, rounding: Rounding, expected: FixedPoint | Logarithmic
) -> None:
    assert choose_format(torch.tensor([largest]), largest, expected.bits, rounding) == expected


@pytest.mark.parametrize("largest", [math.nan, math.inf])
def test_a_largest_value_that_is_no_number_is_refused(largest: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        choose_format(torch.ones(3), largest, 8, "truncation")


@pytest.mark.parametrize(("rounding", "bits"), [("truncation", 0), ("logarithmic", 1)])
def test_a_width_below_the_smallest_is_refused(rounding: Rounding, bits: int) -> None:
    with pytest.raises(ValueError, match="is not within"):
        choose_format(torch.ones(3), 1.0, bits, rounding)


@pytest.mark.parametrize("block", [1, 7, 1 << 17])
@pytest.mark.parametrize("rounding", SCHEMES)
def test_every_channel_has_the_scale_that_it_would_have_alone(
    rounding: Rounding, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(1)
    sizes = torch.tensor([1e-3, 0.9, 1.0, 40.0, 0.0, 1e-35, 1e30]).view(-1, 1, 1)
    weight = torch.randn(7, 3, 4, generator=generator) * sizes
    expected = {bits: [choose_format(w, w.abs().max().item(), bits, rounding) for w in weight] for bits in (2, 3, 8)}
    monkeypatch.setattr(choosing, "_BLOCK", block)
    for bits, formats in expected.items():
        found = choose_channel_formats(weight, bits, rounding)
        assert isinstance(found, PerChannel)
        assert list(found.channels) == formats
        assert len({fmt.shifts for fmt in formats}) > 4


@settings(deadline=None)
@given(st.lists(st.integers(-256, 256), min_size=12, max_size=12), st.integers(1, 8), st.sampled_from(FIXED))
def test_the_choice_of_a_channel_follows_its_definition(numerators: list[int], bits: int, rounding: Rounding) -> None:
    channels = [[Fraction(k, 16) for k in numerators[i : i + 4]] for i in (0, 4, 8)]
    expected = [chosen_by_definition(c, max(map(abs, c)), bits, rounding) for c in channels if any(c)]
    weight = torch.tensor([[float(value) for value in c] for c in channels if any(c)])
    assume(len(weight) > 0)
    shifts = tuple(fmt.frac_bits for fmt in expected)
    assert choose_channel_formats(weight, bits, rounding) == PerChannel(FixedPoint(bits, 0), shifts)


@pytest.mark.parametrize("rounding", SCHEMES)
def test_blocks_do_not_change_the_choice(rounding: Rounding, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = torch.randn(1000, generator=torch.Generator().manual_seed(1)) ** 3
    whole = [choose_format(sample, sample.abs().max().item(), bits, rounding) for bits in (2, 4, 6)]
    monkeypatch.setattr(choosing, "_BLOCK", 7)
    assert [choose_format(sample, sample.abs().max().item(), bits, rounding) for bits in (2, 4, 6)] == whole


def test_a_channel_of_zeros_gets_no_integer_bits() -> None:
    weight = torch.tensor([[0.0, 0.0], [0.5, -2.0]])
    fixed = choose_channel_formats(weight, 6, "truncation")
    assert isinstance(fixed, PerChannel)
    assert fixed.channels[0] == FixedPoint(6, 5)
    logarithmic = choose_channel_formats(weight, 6, "logarithmic")
    assert isinstance(logarithmic, PerChannel)
    assert logarithmic.channels[0] == Logarithmic(6, 0)


def test_one_channel_gets_the_scale_of_the_tensor() -> None:
    weight = torch.randn(1, 50, generator=torch.Generator().manual_seed(1))
    alone = choose_format(weight, weight.abs().max().item(), 4, "round_to_nearest")
    assert choose_channel_formats(weight, 4, "round_to_nearest") == PerChannel(FixedPoint(4, 0), alone.shifts)


def test_scales_per_channel_lose_less_than_one_scale() -> None:
    weight = torch.randn(8, 200, generator=torch.Generator().manual_seed(1)) * torch.logspace(-2, 1, 8)[:, None]
    formats = (
        choose_format(weight, weight.abs().max().item(), 3, "round_to_nearest"),
        choose_channel_formats(weight, 3, "round_to_nearest"),
    )
    one, many = (
        (quantize(weight, fmt, "round_to_nearest").values - weight).square().sum(1) / weight.square().sum(1)
        for fmt in formats
    )
    assert one[0] == 1  # the channel of the smallest values becomes zero
    assert bool((many < 0.2).all())


@pytest.mark.parametrize(("rounding", "bits"), [("truncation", 17), ("logarithmic", 9), ("truncation", 32)])
def test_channels_too_wide_to_be_packed_stay_float(rounding: Rounding, bits: int) -> None:
    assert choose_channel_formats(torch.ones(2, 3), bits, rounding) == Float32()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_channel_with_a_value_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        choose_channel_formats(torch.tensor([[1.0, 2.0], [bad, 1.0]]), 4, "truncation")


@pytest.mark.parametrize(("rounding", "bits"), [("truncation", 0), ("logarithmic", 1)])
def test_channels_below_the_smallest_width_are_refused(rounding: Rounding, bits: int) -> None:
    with pytest.raises(ValueError, match="is not within"):
        choose_channel_formats(torch.ones(2, 3), bits, rounding)
