from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcaps.reports.documents import json_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4))
def test_plain_data_comes_back(document: dict[str, object]) -> None:
    assert json.loads(json_text(document)) == document


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_become_null_wherever_they_stand(value: float) -> None:
    document = {"a": value, "b": [1.5, value], "c": {"d": (value, {"e": value})}}
    expected = {"a": None, "b": [1.5, None], "c": {"d": [None, {"e": None}]}}
    assert json.loads(json_text(document), parse_constant=pytest.fail) == expected


def test_keys_are_sorted_on_every_level_with_two_spaces_and_one_final_newline() -> None:
    found = json_text({"b": 1, "a": {"d": [1], "c": 2.50}})
    assert found == '{\n  "a": {\n    "c": 2.5,\n    "d": [\n      1\n    ]\n  },\n  "b": 1\n}\n'


def test_the_order_of_making_does_not_show() -> None:
    assert json_text({"b": 1, "a": 2}) == json_text({"a": 2, "b": 1})


def test_keys_that_are_numbers_become_text() -> None:
    assert json.loads(json_text({"widths": {4: 1, 16: 2}})) == {"widths": {"4": 1, "16": 2}}


def test_text_stays_readable() -> None:
    assert '"größer → 16"' in json_text({"a": "größer → 16"})


def test_what_is_no_plain_data_is_an_error() -> None:
    with pytest.raises(TypeError):
        json_text({"a": {1, 2}})
