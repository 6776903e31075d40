from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcaps.capsules.squash import SquashVariant, length, squash

SQUASH_VARIANTS = get_args(SquashVariant)
# The epsilon that each variant is published with.
PUBLISHED_EPS = {"hinton_ratio": 0.0, "hinton": 1e-7, "hinton_sqrt": 1e-16, "efficient": 1e-20}
FORMULA = {
    "hinton_ratio": lambda n, eps: n / (1 + n**2),
    "hinton": lambda n, eps: n**2 / (1 + n**2) / (n + eps),
    "hinton_sqrt": lambda n, eps: n**2 / (1 + n**2) / math.sqrt(n**2 + eps),
    "efficient": lambda n, eps: (1 - math.exp(-n)) / (n + eps),
}


def slow_squash(vector, variant, eps):
    """One vector, from the formula, in Python's own floats."""
    n = math.sqrt(math.fsum(x * x for x in vector))
    return [x * FORMULA[variant](n, eps) for x in vector]


def vectors(seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)


def test_every_variant_has_a_formula_here():
    assert set(FORMULA) == set(SQUASH_VARIANTS) == set(PUBLISHED_EPS)


@pytest.mark.parametrize("eps", [None, 1e-3])
@pytest.mark.parametrize("scale", [0.01, 1.0, 20.0])
@pytest.mark.parametrize("variant", SQUASH_VARIANTS)
def test_squash_follows_its_formula_vector_by_vector(variant, scale, eps):
    eps = PUBLISHED_EPS[variant] if eps is None else eps
    s = vectors(scale=scale)
    expected = [slow_squash(vector, variant, eps) for vector in s.reshape(-1, 5).tolist()]
    torch.testing.assert_close(
        squash(s, variant, eps), torch.tensor(expected, dtype=torch.float64).view(3, 4, 5), rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize("variant", SQUASH_VARIANTS)
def test_the_gradient_of_squash_is_its_finite_difference(variant):
    s = vectors(seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: squash(x, variant, PUBLISHED_EPS[variant]), s)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [None, 0.0])
@pytest.mark.parametrize("variant", SQUASH_VARIANTS)
def test_a_zero_vector_stays_zero_and_has_a_finite_gradient(variant, eps, dtype):
    s = torch.zeros(2, 8, dtype=dtype, requires_grad=True)
    v = squash(s, variant, PUBLISHED_EPS[variant] if eps is None else eps)
    v.sum().backward()
    assert (v == 0).all()
    assert s.grad.isfinite().all()


@pytest.mark.parametrize(("variant", "slope"), [("hinton_ratio", 0.0), ("hinton", 0.0), ("efficient", 1.0)])
def test_the_gradient_at_zero_is_the_slope_of_the_squashed_length(variant, slope):
    s = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    squash(s, variant, PUBLISHED_EPS[variant]).sum().backward()
    torch.testing.assert_close(s.grad, torch.full((1, 3), slope, dtype=torch.float64), rtol=0, atol=1e-4)


def test_a_zero_vector_does_not_disturb_its_neighbours():
    s = vectors(seed=2)
    with_zero = s.clone()
    with_zero[0, 0] = 0
    expected = squash(s, "efficient", 1e-20)
    expected[0, 0] = 0
    assert squash(with_zero, "efficient", 1e-20).equal(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_efficient_squash_of_a_very_long_vector_is_a_unit_vector(dtype):
    s = torch.tensor([[120.0, 160.0]], dtype=dtype, requires_grad=True)  # length 200: e^200 overflows float32
    v = squash(s, "efficient", 1e-20)
    v.sum().backward()
    torch.testing.assert_close(v, torch.tensor([[0.6, 0.8]], dtype=dtype))
    assert s.grad.isfinite().all()


def test_efficient_squash_of_a_very_short_vector_keeps_its_digits():
    # 1 - exp(-n) would keep three digits here; the squashed length must come out as n itself.
    s = torch.tensor([[3e-13, 4e-13]], dtype=torch.float64)
    assert length(squash(s, "efficient", 1e-20)).item() == pytest.approx(5e-13, rel=1e-6, abs=0)


@given(
    st.sampled_from(SQUASH_VARIANTS),
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=16),
)
def test_no_squashed_vector_is_longer_than_one(variant, vector):
    v = squash(torch.tensor([vector]), variant, PUBLISHED_EPS[variant])
    assert 0 <= v.double().square().sum().sqrt().item() <= 1 + 1e-6


@pytest.mark.parametrize("variant", SQUASH_VARIANTS)
def test_squash_keeps_the_direction(variant):
    s = vectors(seed=3)
    v = squash(s, variant, PUBLISHED_EPS[variant])
    cosine = (s * v).sum(-1) / (s.square().sum(-1).sqrt() * v.square().sum(-1).sqrt())
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


@pytest.mark.parametrize("variant", SQUASH_VARIANTS)
def test_squash_of_half_precision_is_computed_in_single(variant):
    s = torch.tensor([[300.0, 400.0]], dtype=torch.float16)  # 500² lies beyond float16
    v = squash(s, variant, PUBLISHED_EPS[variant])
    assert v.dtype == torch.float32
    torch.testing.assert_close(
        v, torch.tensor([slow_squash([300.0, 400.0], variant, PUBLISHED_EPS[variant])], dtype=torch.float32)
    )


@pytest.mark.parametrize("variant", SQUASH_VARIANTS)
def test_autocast_does_not_reach_into_squash(variant):
    s = vectors(seed=4).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = squash(s, variant, PUBLISHED_EPS[variant])
    assert inside.equal(squash(s, variant, PUBLISHED_EPS[variant]))


@pytest.mark.parametrize("eps", [0.0, 1e-7])
def test_length_is_the_root_of_the_squares_and_epsilon(eps):
    v = vectors(seed=5)
    expected = [math.sqrt(math.fsum([*(x * x for x in vector), eps])) for vector in v.reshape(-1, 5).tolist()]
    torch.testing.assert_close(length(v, eps), torch.tensor(expected, dtype=torch.float64).view(3, 4))


@pytest.mark.parametrize("eps", [0.0, 1e-7])
def test_the_length_of_zero_has_a_finite_gradient(eps):
    v = torch.zeros(2, 3, requires_grad=True)
    lengths = length(v, eps)
    lengths.sum().backward()
    torch.testing.assert_close(lengths, torch.full((2,), math.sqrt(eps)))
    assert v.grad.isfinite().all()


def test_length_of_half_precision_is_computed_in_single():
    v = torch.tensor([[300.0, 400.0]], dtype=torch.float16)
    assert length(v).equal(torch.tensor([500.0]))
