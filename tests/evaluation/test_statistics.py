from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest

from qcaps.evaluation.statistics import compare_paired, wilson_interval

Z = 1.6448536269514722  # one-sided 95 %


def compared(lost, gained, images=10_000, margin=0.002, confidence=0.95):
    return compare_paired(lost=lost, gained=gained, images=images, margin=margin, confidence=confidence)


@st.composite
def counts(draw, max_flips):
    images = draw(st.integers(1, 20_000))
    flips = draw(st.integers(0, min(images, max_flips)))
    lost = draw(st.integers(0, flips))
    return lost, flips - lost, images


# ---- accuracy of one network


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"),
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_gives_the_published_figures(correct, images, low, high):
    assert wilson_interval(correct, images) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 20_000), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_interval_agrees_with_scipy(images, share, confidence):
    correct = round(share * images)
    expected = binomtest(correct, images).proportion_ci(confidence, method="wilson")
    assert wilson_interval(correct, images, confidence) == pytest.approx(tuple(expected), abs=1e-12)


@given(st.integers(1, 100_000))
def test_wilson_interval_stays_between_zero_and_one(images):
    assert wilson_interval(0, images)[0] == 0.0
    assert wilson_interval(images, images)[1] == 1.0


@pytest.mark.parametrize(("correct", "images"), [(0, 0), (-1, 10), (11, 10)])
def test_impossible_accuracies_are_refused(correct, images):
    with pytest.raises(ValueError, match="no accuracy"):
        wilson_interval(correct, images)


# ---- size of the difference


def test_41_flips_in_3000_images_have_a_standard_error_of_a_fifth_of_a_point():
    assert compared(21, 20, images=3000).standard_error == pytest.approx(0.0021, abs=5e-5)


@given(counts(max_flips=60))
def test_standard_error_is_that_of_the_mean_of_the_image_differences(case):
    lost, gained, images = case
    mean = Fraction(lost - gained, images)
    squares = lost * (1 - mean) ** 2 + gained * (-1 - mean) ** 2 + (images - lost - gained) * mean**2
    assert compared(*case).drop == pytest.approx(float(mean), abs=1e-15)
    assert compared(*case).standard_error == pytest.approx(math.sqrt(squares / images**2), abs=1e-12)


@pytest.mark.parametrize(("flips", "points"), [(20, 0.11), (40, 0.16), (100, 0.25)])
def test_detectable_drop_gives_the_tabulated_figures(flips, points):
    comparison = compared(flips // 2, flips // 2)
    assert 100 * comparison.minimum_detectable_drop == pytest.approx(points, abs=0.005)


def test_a_claim_of_15_hundredths_of_a_point_needs_fewer_than_about_36_flips():
    assert 100 * compared(18, 17).minimum_detectable_drop < 0.15 < 100 * compared(19, 18).minimum_detectable_drop


# ---- McNemar


@pytest.mark.parametrize("flips", range(9))
def test_mcnemar_p_is_the_share_of_coin_sequences_with_as_many_losses(flips):
    sequences = list(itertools.product([0, 1], repeat=flips))
    for lost in range(flips + 1):
        extreme = sum(sum(sequence) >= lost for sequence in sequences)
        assert compared(lost, flips - lost).mcnemar_p == extreme / len(sequences)


@given(counts(max_flips=400))
def test_mcnemar_p_agrees_with_scipy(case):
    lost, gained, _ = case
    assume(lost + gained)
    expected = binomtest(lost, lost + gained, alternative="greater").pvalue
    assert compared(*case).mcnemar_p == pytest.approx(expected, rel=1e-9)


def test_mcnemar_p_gives_the_published_figure():
    # Fagerland, Lydersen and Laake, "Statistical Analysis of Contingency Tables", 2017, chapter 8, data of
    # Cavo et al.: 16 against 6 changes among 161 pairs, two-sided exact P = 0.052479.
    assert 2 * compared(16, 6, images=161).mcnemar_p == pytest.approx(0.052479, abs=5e-7)


def test_mcnemar_p_of_very_many_flips_stays_a_number():
    assert compared(3000, 0).mcnemar_p == 0.0
    assert compared(0, 3000).mcnemar_p == 1.0


# ---- bound of the drop


def test_score_bounds_give_the_published_interval():
    # Same source and data: Tango's 95 % interval of (6 - 16) / 161 is -0.1240 to -0.0054, Wald's
    # -0.1184 to -0.0058.
    assert compared(16, 6, images=161, confidence=0.975).bound == pytest.approx(0.1240, abs=5e-5)
    assert compared(6, 16, images=161, confidence=0.975).bound == pytest.approx(-0.0054, abs=5e-5)


def slow_score_statistic(drop, lost, gained, images):
    """Tango's statistic, with the restricted likelihood maximised by ternary search."""

    def log_likelihood(share_gained):
        shares = share_gained + drop, share_gained, 1 - 2 * share_gained - drop
        observed = lost, gained, images - lost - gained
        return sum(k * math.log(p) if p > 0 else -math.inf for k, p in zip(observed, shares, strict=True) if k)

    low, high = max(0.0, -drop), (1 - drop) / 2
    for _ in range(200):
        third = (high - low) / 3
        if log_likelihood(low + third) < log_likelihood(high - third):
            low += third
        else:
            high -= third
    variance = (2 * low + drop - drop**2) / images
    return ((lost - gained) / images - drop) / math.sqrt(variance)


@given(counts(max_flips=24))
def test_score_test_is_exactly_undecided_at_the_bound(case):
    lost, gained, images = case
    assume(lost < images)
    bound = compared(*case).bound
    assert slow_score_statistic(bound, lost, gained, images) == pytest.approx(-Z, abs=1e-4)


@given(st.integers(1, 100_000))
def test_score_bound_without_flips_has_a_closed_form(images):
    # (n D)^2 = z^2 n D (1 - D)
    assert compared(0, 0, images=images).bound == pytest.approx(Z**2 / (images + Z**2), rel=1e-9)


def test_score_bound_of_a_network_that_loses_everything_is_everything():
    assert compared(10, 0, images=10).bound == 1.0


@pytest.mark.parametrize(("lost", "gained"), [(13, 12), (25, 0), (0, 25), (300, 40)])
def test_bound_from_25_flips_on_is_the_drop_and_1_645_standard_errors(lost, gained):
    error = math.sqrt(lost + gained - (lost - gained) ** 2 / 10_000) / 10_000
    assert compared(lost, gained).bound == pytest.approx((lost - gained) / 10_000 + Z * error, rel=1e-12)


def test_bound_of_24_flips_is_not_yet_the_normal_one():
    normal = Z * math.sqrt(24) / 10_000
    assert compared(12, 12).bound > 1.01 * normal


@given(counts(max_flips=400), st.floats(0, 0.05))
def test_one_more_lost_image_never_looks_better(case, margin):
    lost, gained, images = case
    assume(lost + gained < images and lost - gained < images / 2)
    assume(lost + gained != 24)  # where the form of the bound changes
    rank = {"pass": 0, "inconclusive": 1, "fail": 2}
    before = compared(*case, margin=margin)
    after = compared(lost + 1, gained, images, margin=margin)
    assert after.bound > before.bound
    assert after.drop > before.drop
    assert after.mcnemar_p <= before.mcnemar_p
    assert rank[after.verdict] >= rank[before.verdict]


# ---- verdict


@pytest.mark.parametrize(
    ("lost", "gained", "verdict"),
    [
        # Score bounds without gains are about b + 1.35 +- 1.645 sqrt(b + 0.68).
        (12, 0, "pass"),  # 13.4 + 5.9
        (13, 0, "inconclusive"),  # 14.4 + 6.1
        (24, 0, "inconclusive"),  # 25.4 - 8.2
        # Normal bounds are b - c +- 1.645 sqrt(b + c).
        (30, 20, "inconclusive"),  # 10 + 11.6
        (20, 20, "pass"),  # 0 + 10.4
        (40, 5, "fail"),  # 35 - 11.0
        (60, 40, "inconclusive"),  # 20 - 16.4, 20 + 16.4
    ],
)
def test_verdict_at_a_margin_of_20_images(lost, gained, verdict):
    assert compared(lost, gained, margin=20 / 10_000).verdict == verdict


def test_few_flips_can_fail():
    assert compared(24, 0, margin=17 / 10_000).verdict == "fail"  # 25.4 - 8.2, as above


def test_higher_confidence_makes_a_pass_inconclusive():
    assert compared(12, 8, margin=0.0013).verdict == "pass"
    assert compared(12, 8, margin=0.0013, confidence=0.99).verdict == "inconclusive"


def test_a_drop_of_exactly_the_bound_is_within_the_margin():
    bound = compared(20, 10).bound
    assert compared(20, 10, margin=bound).verdict == "pass"
    assert compared(20, 10, margin=math.nextafter(bound, 0)).verdict == "inconclusive"


def test_no_flips_prove_a_margin_but_not_equality():
    assert compared(0, 0, margin=0.002).verdict == "pass"
    assert compared(0, 0, margin=0.0).verdict == "inconclusive"
    assert compared(0, 0).mcnemar_p == 1.0
    assert compared(0, 0).standard_error == 0.0


@pytest.mark.parametrize(("lost", "gained", "images"), [(0, 0, 0), (-1, 0, 10), (0, -1, 10), (6, 5, 10)])
def test_impossible_counts_are_refused(lost, gained, images):
    with pytest.raises(ValueError, match="do not fit"):
        compared(lost, gained, images)
