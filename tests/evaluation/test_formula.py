from __future__ import annotations

import numpy as np
import pytest

from qcaps.evaluation.formula import Formula, constant, content, product, quotient, total

# Units 0, 1 and 2 have widths 3, 5 and 7.
WIDTHS = np.array([3, 5, 7])


def value(terms):
    return Formula({"row": terms})(WIDTHS)


def test_a_sum_of_products_is_what_its_widths_make_it():
    terms = {(): 2, (0,): 10, (1, 2): 4, (0, 0): 1}
    assert value(terms) == 2 + 10 * 3 + 4 * 5 * 7 + 3 * 3


def test_multiplying_terms_multiplies_their_values():
    left, right = {(): 2, (0,): 10}, {(1,): 3, (0, 2): 1}
    assert value(product([left, right, constant(5)])) == (2 + 30) * (15 + 21) * 5


def test_adding_terms_adds_their_values_and_merges_equal_products():
    added = total([{(0, 1): 2}, {(0, 1): 3, (2,): 1}])
    assert added == {(0, 1): 5, (2,): 1}
    assert value(added) == 5 * 15 + 7


def test_an_empty_product_is_one_and_an_empty_sum_is_nothing():
    assert (value(product([])), value(total([]))) == (1, 0)


def test_a_quotient_is_exact_or_refused():
    assert quotient({(0,): 6, (): 9}, 3) == {(0,): 2, (): 3}
    with pytest.raises(ValueError, match="multiple of 2"):
        quotient({(0,): 6, (): 9}, 2)


def test_the_content_is_the_largest_common_divisor():
    assert content({(0,): 12, (1,): 18}) == 6


def test_the_rows_of_a_formula_add_up_to_its_sum():
    formula = Formula({"a": {(0,): 2}, "b": {}, "c": {(): 1, (0, 2): 1}})
    assert formula.rows(WIDTHS) == {"a": 6, "b": 0, "c": 22}
    assert formula.values(WIDTHS).tolist() == [6, 0, 22]
    assert formula(WIDTHS) == 28


def test_a_formula_knows_the_units_it_depends_on():
    assert Formula({"a": {(0,): 2}, "b": {(): 1}, "c": {(0, 2): 1}}).units == {0, 2}


def test_large_numbers_stay_exact():
    assert Formula({"a": {(0, 1): 10**15, (): 1}})(np.array([9, 9, 9])) == 81 * 10**15 + 1
