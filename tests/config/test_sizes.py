from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcaps.config.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("typed", "size_bytes"),
    [
        ("200", 200_000_000),
        (200, 200_000_000),
        ("0.2", 200_000),
        (0.2, 200_000),
        (1e-05, 10),
        ("1.5MB", 1_500_000),
        ("1.5 MB", 1_500_000),
        (" 1.5mb ", 1_500_000),
        ("200kB", 200_000),
        ("200KB", 200_000),
        ("1024B", 1024),
        ("1GB", 1_000_000_000),
        ("1KiB", 1024),
        ("1.5 MiB", 1_572_864),
        ("1GiB", 1_073_741_824),
        ("2e-3", 2_000),
        ("1e3 kB", 1_000_000),
        ("0.0000019", 1),
        ("1.9999B", 1),
        ("0.123456789", 123_456),
        ("000001", 1_000_000),
    ],
)
def test_a_size_is_read_in_decimal_megabytes_unless_it_names_a_unit(typed: object, size_bytes: int) -> None:
    assert parse_size(typed) == size_bytes


UNITS = {"": 10**6, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@given(st.integers(1, 10**6), st.integers(0, 6), st.sampled_from(sorted(UNITS)))
def test_a_size_is_exact_and_rounded_down(number: int, decimals: int, unit: str) -> None:
    whole, part = divmod(number, 10**decimals)
    text = f"{whole}.{part:0{decimals}}" if decimals else str(whole)
    exact = Fraction(number, 10**decimals) * UNITS[unit]
    if exact < 1:
        with pytest.raises(ValueError, match="less than one byte"):
            parse_size(text + unit)
    else:
        assert parse_size(text + unit) == int(exact)


@pytest.mark.parametrize("typed", ["0", "0 MB", "0.0", "0.9B", "1e-9", 0])
def test_less_than_one_byte_is_refused(typed: object) -> None:
    with pytest.raises(ValueError, match="is less than one byte"):
        parse_size(typed)


@pytest.mark.parametrize(
    "typed",
    [
        *("", " ", "MB", "1 TB", "1 M", "1 Mb/s", "-1", "+1", "1,5", "1.5.2", ".5", "1.", "1e", "1_000", "0x10"),
        *("1 MB 2", "nan", "inf", "1e400", "9" * 40, "1\x00", "one", "1 MiBs", None, True, [1], {}),
    ],
)
def test_what_is_no_size_is_refused(typed: object) -> None:
    with pytest.raises(ValueError, match="is not a size such as"):
        parse_size(typed)


def test_a_refusal_quotes_no_more_than_the_beginning() -> None:
    with pytest.raises(ValueError, match="is not a size") as caught:
        parse_size("x" * 10_000)
    assert len(str(caught.value)) < 120


@given(st.text(max_size=12))
def test_any_text_is_a_positive_size_or_refused(text: str) -> None:
    try:
        assert parse_size(text) >= 1
    except ValueError as error:
        assert "size" in str(error) or "byte" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("size_bytes", "written"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.000 kB"),
        (121_304, "121.304 kB"),
        (999_999, "999.999 kB"),
        (1_000_000, "1.000 MB"),
        (27_217_536, "27.218 MB"),
        (1_234_567_890, "1234.568 MB"),
    ],
)
def test_a_size_is_written_with_three_decimals_of_a_decimal_unit(size_bytes: int, written: str) -> None:
    assert format_size(size_bytes) == written


@given(st.integers(1, 999_999))
def test_a_written_size_below_a_megabyte_can_be_read_back(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes
