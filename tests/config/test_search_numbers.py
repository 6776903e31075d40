from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcaps.config.search_numbers import parse_pins, parse_seconds, parse_widths

# A busy machine would break a deadline without a reason.
BRIEFLY = settings(deadline=None)


@pytest.mark.parametrize(
    ("typed", "widths"),
    [
        ("2,4,8", (2, 4, 8)),
        ("8, 2 ,4", (2, 4, 8)),
        ("4,4,4", (4,)),
        ("1", (1,)),
        ("16", (16,)),
        (16, (16,)),
        ([8, "2,4"], (2, 4, 8)),
        ((3, 5), (3, 5)),
        ([], ()),
    ],
)
def test_widths_come_ascending_and_once(typed: object, widths: tuple[int, ...]) -> None:
    assert parse_widths(typed) == widths


@pytest.mark.parametrize(
    "typed",
    ["", "0", "17", "32", "-2", "2;4", "2,,4", "2,", "4.0", "1e1", "0x4", "four", None, True, 4.5, [2, "x"], "²"],
)
def test_other_widths_are_refused(typed: object) -> None:
    with pytest.raises(ValueError, match="is not a list of widths from 1 to 16 such as 2,4,8"):
        parse_widths(typed)


@BRIEFLY
@given(st.lists(st.integers(1, 16), min_size=1))
def test_every_list_of_widths_is_read_back(widths: list[int]) -> None:
    assert parse_widths(",".join(map(str, widths))) == tuple(sorted(set(widths)))


@pytest.mark.parametrize(
    ("typed", "pins"),
    [
        ("conv1.*=8", (("conv1.*", 8),)),
        (" conv1.weight = 32 ", (("conv1.weight", 32),)),
        (["*.weight=4", "conv1.*=8"], (("*.weight", 4), ("conv1.*", 8))),
        ("class_caps.logits@2=16", (("class_caps.logits@2", 16),)),
        ((), ()),
    ],
)
def test_pins_are_patterns_and_widths_in_the_order_typed(typed: object, pins: tuple[tuple[str, int], ...]) -> None:
    assert parse_pins(typed) == pins


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "conv1",
        "=8",
        "conv1=",
        "conv1=0",
        "conv1=17",
        "conv1=31",
        "conv1=33",
        "conv1=x",
        "a=b=8",
        "a b=8",
        "x" * 81 + "=8",
        8,
        None,
    ],
)
def test_other_pins_are_refused(typed: object) -> None:
    with pytest.raises(ValueError, match="is not a pattern and a width from 1 to 16, or 32 for float"):
        parse_pins(typed)


def test_one_wrong_pin_spoils_the_list() -> None:
    with pytest.raises(ValueError, match="'conv2'"):
        parse_pins(["conv1=8", "conv2"])


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), (" 2 m ", 120), (90, 90), (0.5, 0.5), ("0.25s", 0.25)],
)
def test_times_are_seconds_minutes_or_hours(typed: object, seconds: float) -> None:
    assert parse_seconds(typed) == seconds


@pytest.mark.parametrize(
    "typed", ["", "0", "0.0h", "-1", "1d", "1h30m", "ten", "inf", "nan", ".5", "5.", "1e3", "1_0", None, True]
)
def test_other_times_are_refused(typed: object) -> None:
    with pytest.raises(ValueError, match="is not a time such as"):
        parse_seconds(typed)


@pytest.mark.parametrize("parse", [parse_widths, parse_pins, parse_seconds])
def test_a_long_text_is_not_repeated_whole(parse) -> None:
    with pytest.raises(ValueError, match=r"^'x{40}' is not"):
        parse("x" * 100_000)
