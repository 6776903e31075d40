from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from qcaps.quantization.formats import FixedPoint, Float32, Logarithmic, NumberFormat, OneScale, PerChannel, Rounding
from qcaps.quantization.rounding import quantize
from qcaps.quantization.straight_through import round_through

# Both ends of every format below, ties, values next to them, and values far outside.
_NEGATIVE = (-9.0, -1.5, -1.26, -1.25, -1.125, -1.1, -1.0, -0.9, -0.25, -0.05)
_POSITIVE = (0.03, 0.125, 0.4, 0.7, 0.75, 0.874, 0.875, 0.876, 0.99, 1.0, 1.41, 1.42, 2.0, 2.82, 2.83, 2.9, 40.0)
VALUES = torch.tensor((*_NEGATIVE, 0.0, *_POSITIVE))
DRAWS = torch.rand(len(VALUES), generator=torch.Generator().manual_seed(0))
UPSTREAM = torch.arange(1.0, len(VALUES) + 1)
FORMATS: list[tuple[Rounding, OneScale]] = [
    ("round_to_nearest", FixedPoint(3, 2)),
    ("round_to_nearest", FixedPoint(1, 0)),
    ("truncation", FixedPoint(3, 2)),
    ("stochastic_rounding", FixedPoint(3, 2)),
    ("logarithmic", Logarithmic(3, 0)),
    ("logarithmic", Logarithmic(2, 1)),
]
every_format = pytest.mark.parametrize(("rounding", "fmt"), FORMATS)


def draws_for(rounding: Rounding) -> Tensor | None:
    return DRAWS if rounding == "stochastic_rounding" else None


def gradient_of(x: Tensor, fmt: NumberFormat, rounding: Rounding, upstream: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    draws = draws_for(rounding)
    round_through(x, fmt, rounding, None if draws is None else draws[: x.numel()]).backward(upstream)
    assert x.grad is not None
    return x.grad


def is_clamped(value: float, fmt: OneScale, rounding: Rounding, draw: float) -> bool:
    """Work out by hand whether a value is clamped, in exact fractions."""
    x = Fraction(value)
    if isinstance(fmt, Logarithmic):
        return x * x > 2 * Fraction(4) ** fmt.max_exponent
    steps = x * Fraction(2) ** fmt.frac_bits
    code = {
        "round_to_nearest": round(steps),
        "truncation": math.floor(steps),
        "stochastic_rounding": math.floor(steps) + (Fraction(draw) < steps - math.floor(steps)),
    }[rounding]
    return not -(2 ** (fmt.bits - 1)) <= code <= 2 ** (fmt.bits - 1) - 1


@every_format
def test_the_values_are_those_of_plain_rounding(rounding, fmt):
    found = round_through(VALUES, fmt, rounding, draws_for(rounding))
    assert found.equal(quantize(VALUES, fmt, rounding, draws_for(rounding)).values)


@every_format
def test_a_gradient_passes_unless_the_value_was_clamped(rounding, fmt):
    values, draws = VALUES.tolist(), DRAWS.tolist()
    expected = [
        0.0 if is_clamped(value, fmt, rounding, draw) else upstream
        for value, draw, upstream in zip(values, draws, UPSTREAM.tolist(), strict=True)
    ]
    assert gradient_of(VALUES, fmt, rounding, UPSTREAM).tolist() == expected
    assert 2 < expected.count(0.0) < len(expected) - 2


@every_format
def test_as_many_gradients_vanish_as_values_are_counted_as_clamped(rounding, fmt):
    saturated = quantize(VALUES, fmt, rounding, draws_for(rounding)).saturated
    assert int((gradient_of(VALUES, fmt, rounding, UPSTREAM) == 0).sum()) == saturated


def test_a_small_value_that_becomes_zero_keeps_its_gradient():
    fmt, x = Logarithmic(3, 0), torch.tensor([0.001, -0.001])
    assert round_through(x, fmt, "logarithmic").tolist() == [0.0, 0.0]
    assert gradient_of(x, fmt, "logarithmic", torch.tensor([2.0, 3.0])).tolist() == [2.0, 3.0]


@pytest.mark.parametrize("rounding", ["round_to_nearest", "truncation", "stochastic_rounding"])
def test_every_channel_of_a_weight_is_clamped_at_its_own_scale(rounding):
    shifts = (0, 3, -2, 5)
    rows = VALUES.view(len(shifts), -1)
    fmt = PerChannel(FixedPoint(3, 0), shifts)
    found = gradient_of(rows, fmt, rounding, UPSTREAM.view_as(rows))
    expected = [
        0.0 if is_clamped(value, FixedPoint(3, shifts[place // rows.shape[1]]), rounding, float(DRAWS[place])) else up
        for place, (value, up) in enumerate(zip(VALUES.tolist(), UPSTREAM.tolist(), strict=True))
    ]
    assert found.flatten().tolist() == expected
    assert 0.0 in expected


def test_float32_passes_values_and_gradients_as_they_are():
    assert round_through(VALUES, Float32(), "truncation").equal(VALUES)
    assert gradient_of(VALUES, Float32(), "truncation", UPSTREAM).equal(UPSTREAM)


@pytest.mark.parametrize("rounding", ["round_to_nearest", "stochastic_rounding"])
def test_the_order_in_memory_changes_nothing(rounding):
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    draws = torch.rand(2, 60, generator=torch.Generator().manual_seed(2)) if rounding[0] == "s" else None
    found = []
    for order in (torch.contiguous_format, torch.channels_last):
        leaf = x.clone(memory_format=order).requires_grad_()
        y = round_through(leaf, FixedPoint(2, 1), rounding, draws)
        y.backward(torch.arange(120.0).view_as(x) + 1)
        found.append((y.detach(), leaf.grad))
    (y, gradient), (other_y, other_gradient) = found
    assert other_y.equal(y)
    assert other_gradient.equal(gradient)
    assert 0 < int((gradient == 0).sum()) < 120


def test_a_number_that_is_none_is_refused():
    with pytest.raises(ValueError, match="NaN or infinity"):
        round_through(torch.tensor([math.nan]), FixedPoint(3, 2), "truncation")
