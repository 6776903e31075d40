from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from qcaps.evaluation.rank_correlation import rank_correlation


def test_the_same_order_is_1_and_the_opposite_one_minus_1():
    assert rank_correlation([1, 2, 30], [5, 6, 7]) == pytest.approx(1)
    assert rank_correlation([1, 2, 30], [7, 6, 5]) == pytest.approx(-1)


def test_equal_values_share_their_rank():
    # Ranks 1.5, 1.5, 3 and 1, 2, 3: covariance 0.5, variances 0.5 and 2/3.
    assert rank_correlation([4, 4, 9], [1, 2, 3]) == pytest.approx(0.5 / (0.5 * 2 / 3) ** 0.5)


@pytest.mark.parametrize(("one", "other"), [([], []), ([1, 2], [1, 2]), ([3, 3, 3], [1, 2, 3]), ([1, 2, 3], [5, 5, 5])])
def test_without_an_order_there_is_nothing_to_compare(one, other):
    assert rank_correlation(one, other) is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=12))
def test_it_is_spearmans(pairs):
    one, other = zip(*pairs, strict=True)
    if len(set(one)) > 1 and len(set(other)) > 1:
        assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)
