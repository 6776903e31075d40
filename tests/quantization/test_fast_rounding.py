from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qcaps.quantization.fast_rounding import rounded_values
from qcaps.quantization.formats import FixedPoint, Float32, Logarithmic
from qcaps.quantization.rounding import quantize

FORMATS = st.builds(FixedPoint, st.integers(1, 16), st.integers(-100, 100))
DTYPES = {torch.float32: (torch.int32, 32), torch.float64: (torch.int64, 64)}


def bits(values: Tensor) -> list[int]:
    """Give the bits of floats, which tell -0 from 0."""
    return values.flatten().view(DTYPES[values.dtype][0]).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data(), fmt=FORMATS)
def test_every_float_is_rounded_bit_for_bit_as_by_quantize(
    dtype: torch.dtype, data: st.DataObject, fmt: FixedPoint
) -> None:
    width = DTYPES[dtype][1]
    finite = st.floats(allow_nan=False, allow_infinity=False, width=width)
    # Steps, halves of them and what lies beside them, within the range and around its ends.
    halves = st.integers(-(2**18), 2**18).map(lambda half: half * fmt.step / 2)
    beside = halves.map(lambda x: float(torch.nextafter(torch.tensor(x, dtype=dtype), torch.tensor(0.0, dtype=dtype))))
    x = torch.tensor(data.draw(st.lists(finite | halves | beside, min_size=1, max_size=30)), dtype=dtype)
    assert bits(rounded_values(x, fmt, "round_to_nearest")) == bits(quantize(x, fmt, "round_to_nearest").values)


@pytest.mark.parametrize("bits", [1, 2, 6, 8, 16])
def test_values_are_those_of_exact_fractions(bits: int) -> None:
    fmt = FixedPoint(bits, 3)
    x = 2.0 ** (bits - 4) * torch.randn(2000, generator=torch.Generator().manual_seed(0))
    expected = [max(fmt.lowest_code, min(round(8 * Fraction(v)), fmt.highest_code)) / 8 for v in x.tolist()]
    assert rounded_values(x, fmt, "round_to_nearest").tolist() == expected


def test_ties_go_to_even_and_nothing_becomes_minus_zero() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, -0.2, -0.0, 0.5, 1.5, 2.5, 126.5, 127.5, -128.5, -129.0])
    found = rounded_values(x, FixedPoint(8, 0), "round_to_nearest")
    assert found.tolist() == [-2, -2, 0, 0, 0, 0, 2, 2, 126, 127, -128, -128]
    assert not found[found == 0].signbit().any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("frac_bits", [-100, 5, 100])
def test_what_is_no_number_is_an_error(bad: float, frac_bits: int) -> None:
    x = torch.ones(1000)
    x[617] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        rounded_values(x, FixedPoint(6, frac_bits), "round_to_nearest")


def test_finite_values_whose_sum_overflows_are_no_error() -> None:
    x = torch.full((10,), torch.finfo(torch.float32).max)
    assert rounded_values(x, FixedPoint(4, 1), "round_to_nearest").tolist() == [3.5] * 10
    assert rounded_values(x, FixedPoint(4, -100), "round_to_nearest").tolist() == [7 * 2.0**100] * 10


def test_the_array_that_is_rounded_stays_as_it_is() -> None:
    x = torch.randn(50)
    before = x.clone()
    rounded_values(x, FixedPoint(4, 2), "round_to_nearest")
    assert torch.equal(x, before)


def test_an_array_keeps_its_order_in_memory() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 4, 2, generator=generator).permute(0, 2, 3, 1)
    found = rounded_values(x, FixedPoint(4, 2), "round_to_nearest")
    assert found.stride() == x.stride()
    assert torch.equal(found, quantize(x.contiguous(), FixedPoint(4, 2), "round_to_nearest").values)


def test_an_array_that_overlaps_itself_is_rounded() -> None:
    found = rounded_values(torch.tensor([[0.3], [1.4]]).expand(2, 3), FixedPoint(4, 0), "round_to_nearest")
    assert found.tolist() == [[0, 0, 0], [1, 1, 1]]


def test_other_schemes_and_formats_are_those_of_quantize() -> None:
    x = torch.tensor([-0.7, 0.3, 1.6])
    draws = torch.tensor([0.1, 0.9, 0.5])
    assert rounded_values(x, FixedPoint(4, 0), "truncation").tolist() == [-1, 0, 1]
    assert rounded_values(x, FixedPoint(4, 0), "stochastic_rounding", draws).tolist() == [0, 0, 2]
    assert rounded_values(x, Logarithmic(4, 1), "logarithmic").tolist() == [-0.5, 0.25, 2]
    assert rounded_values(x, Float32(), "round_to_nearest") is x
    with pytest.raises(ValueError, match="cannot round"):
        rounded_values(x, Logarithmic(4, 1), "round_to_nearest")


def test_no_gradient_flows_through() -> None:
    x = torch.ones(3, requires_grad=True)
    assert not rounded_values(x, FixedPoint(4, 0), "round_to_nearest").requires_grad
