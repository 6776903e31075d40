from __future__ import annotations

import pytest

from qcaps.config.pruning_numbers import parse_caps, parse_floors


@pytest.mark.parametrize(
    ("typed", "caps"),
    [
        (0.5, (("*", 0.5),)),
        ("0.7", (("*", 0.7),)),
        (" conv1.* = .25 ", (("conv1.*", 0.25),)),
        (["0.7", "primary.types=0", "primary.dims=1"], (("*", 0.7), ("primary.types", 0.0), ("primary.dims", 1.0))),
        ((1,), (("*", 1.0),)),
        ([], ()),
    ],
)
def test_a_cap_holds_for_a_pattern_or_for_all_units(typed: object, caps: object) -> None:
    assert parse_caps(typed) == caps


@pytest.mark.parametrize(
    "typed", ["", "1.1", "-0.5", "2", "conv1.*", "=0.5", "a=b", "nan", "0.12345", None, ["0.5", "x"]]
)
def test_what_is_no_cap_is_refused(typed: object) -> None:
    with pytest.raises(ValueError, match="is not a pattern and a share from 0 to 1"):
        parse_caps(typed)


@pytest.mark.parametrize(
    ("typed", "floors"), [(4, (("*", 4),)), (["2", "primary.types=12"], (("*", 2), ("primary.types", 12))), ((), ())]
)
def test_a_least_number_holds_for_a_pattern_or_for_all_units(typed: object, floors: object) -> None:
    assert parse_floors(typed) == floors


@pytest.mark.parametrize("typed", ["", "0", "-1", "1.5", "a=", "a=0", "1234567", True, None])
def test_what_is_no_number_of_units_is_refused(typed: object) -> None:
    with pytest.raises(ValueError, match="is not a pattern and a number of units"):
        parse_floors(typed)
