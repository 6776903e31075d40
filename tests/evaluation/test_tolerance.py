from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcaps.errors import UsageError
from qcaps.evaluation.tolerance import Tolerance, judge, search_allowance

hundredths = st.integers(0, 10_000)


def test_relative_tolerance_is_a_share_of_the_images_the_float_network_gets_right():
    assert Tolerance(Decimal("0.2")).allowance(correct=1940, images=2000) == Fraction(388, 100)


def test_absolute_tolerance_is_a_share_of_all_images():
    assert Tolerance(Decimal("0.2"), "absolute").allowance(correct=1940, images=2000) == 4


def test_a_whole_allowance_is_not_lost_to_binary_fractions():
    # In binary floats this is 56.99999999999999, in whichever order it is multiplied.
    assert Tolerance(Decimal("0.57"), "absolute").allowed_losses(correct=0, images=10_000) == 57


def test_an_allowance_just_below_a_whole_image_is_rounded_down():
    assert Tolerance(Decimal("0.2")).allowed_losses(correct=1999, images=2000) == 3


def test_seeds_are_summed_before_rounding_down():
    tolerance = Tolerance(Decimal("0.2"))  # T = 3.88 images
    assert tolerance.allowed_losses(correct=1940, images=2000, seeds=3) == 11


def test_tolerance_zero_allows_no_loss():
    assert Tolerance(Decimal(0)).allowed_losses(correct=10_000, images=10_000) == 0


@given(hundredths, st.integers(0, 20_000), st.integers(0, 20_000), st.integers(1, 5))
def test_allowed_losses_are_the_largest_whole_number_within_the_allowance(percent, correct, wrong, seeds):
    tolerance = Tolerance(Decimal(percent) / 100)
    allowed = tolerance.allowed_losses(correct=correct, images=correct + wrong, seeds=seeds)
    # Whole numbers on both sides: K <= R C t / 100 < K + 1 with t = percent / 100.
    assert allowed * 10_000 <= seeds * correct * percent < (allowed + 1) * 10_000


@pytest.mark.parametrize(("images", "kept"), [(2000, 3), (5000, 9), (10_000, 18), (500, 0), (0, 0)])
def test_a_search_keeps_a_tenth_of_the_allowance_in_reserve(images, kept):
    # K = 4, 10, 20, 1, 0
    assert search_allowance(Tolerance(Decimal("0.2")), correct=images, images=images) == kept


def test_the_reserve_of_a_search_can_be_chosen():
    tolerance = Tolerance(Decimal("0.2"))
    assert search_allowance(tolerance, correct=10_000, images=10_000, margin_pct=0) == 20
    assert search_allowance(tolerance, correct=10_000, images=10_000, margin_pct=25, seeds=2) == 30


@pytest.mark.parametrize("percent", ["-0.1", "100.1", "NaN", "Infinity", "1E-21", "0E+21"])
def test_a_decimal_outside_the_range_is_a_usage_error(percent):
    with pytest.raises(UsageError, match="from 0 to 100"):
        Tolerance(Decimal(percent))


def test_lost_and_gained_images_are_counted_apart():
    baseline = torch.tensor([True, True, True, False, False, True])
    candidate = torch.tensor([True, False, False, True, False, False])
    verdict = judge(baseline, candidate, allowed=1)
    assert (verdict.lost, verdict.gained, verdict.images, verdict.allowed) == (3, 1, 6, 1)


@pytest.mark.parametrize(("allowed", "passed"), [(1, False), (2, True), (3, True)])
def test_a_net_loss_of_exactly_the_allowance_passes(allowed, passed):
    baseline = torch.tensor([True, True, True, False])
    candidate = torch.tensor([False, False, False, True])
    assert judge(baseline, candidate, allowed).passed is passed


def test_a_candidate_that_gains_more_than_it_loses_passes_at_tolerance_zero():
    assert judge(torch.tensor([True, False, False]), torch.tensor([False, True, True]), 0).passed


def test_counts_are_refused_as_right_or_wrong():
    with pytest.raises(ValueError, match="bool"):
        judge(torch.tensor([1, 0]), torch.tensor([True, False]), 0)


def test_different_numbers_of_images_cannot_be_paired():
    with pytest.raises(ValueError, match="2 and 1 images"):
        judge(torch.tensor([True, False]), torch.tensor([True]), 0)
