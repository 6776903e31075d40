from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pytest

from qcaps.config.option import about, configure, option, shell_name
from qcaps.errors import UsageError
from qcaps.registry import Entry, Registry

FRUITS = Registry("fruit", Entry("apple", "Red.", "m:a"), Entry("fresh-fig", "Soft.", "m:b"))


def parse_halves(value: object) -> int:
    if not str(value).endswith(".5"):
        raise ValueError(f"'{value}' is not a half")
    return round(float(str(value)) * 2)


@dataclass(frozen=True, kw_only=True)
class Basket:
    fruit: str = option("apple", "What is in it.", names=FRUITS)
    second_fruit: str | None = option(None, "What else is in it.", names=FRUITS)
    weight: float = option(1.5, "Weight in kg.", least=0, most=20)
    handles: int = option(2, "Number of handles.", least=1, most=4)
    halves: int = option(3, "In halves.", parse=parse_halves, metavar="X.5")
    share: Decimal = option(Decimal("0.5"), "Share.")
    size: Literal["small", "large"] = option("small", "How large it is.")
    notes: tuple[str, ...] = option((), "Notes.")
    place: Path | None = option(None, "Where it stands.")
    full: bool = option(False, "Nothing more goes in.")


def refusal(**options: object) -> UsageError:
    """Give the error of options that must be refused; it must be one line."""
    with pytest.raises(UsageError) as caught:
        configure(Basket, options)
    assert str(caught.value).isprintable()
    return caught.value


def test_nothing_given_means_every_default() -> None:
    assert configure(Basket, {}) == Basket()


def test_values_are_taken_as_they_are() -> None:
    given = {"fruit": "fresh-fig", "weight": 2.5, "handles": 1, "size": "large", "notes": ("a", "b"), "full": True}
    assert configure(Basket, {**given, "place": Path("x")}) == Basket(**given, place=Path("x"))


def test_text_becomes_the_declared_type() -> None:
    typed = {"weight": "1e-3", "handles": "4", "halves": "2.5", "share": "0.20", "place": "a/b", "full": "true"}
    found = configure(Basket, typed)
    expected = Basket(weight=0.001, handles=4, halves=5, share=Decimal("0.20"), place=Path("a/b"), full=True)
    assert found == expected
    assert str(found.share) == "0.20"


@pytest.mark.parametrize("spelling", ["second_fruit", "second-fruit"])
def test_an_option_is_known_in_both_spellings(spelling: str) -> None:
    assert configure(Basket, {spelling: "fresh-fig"}).second_fruit == "fresh-fig"


def test_an_option_given_in_both_spellings_is_refused() -> None:
    error = refusal(**{"second_fruit": "apple", "second-fruit": "fresh-fig"})
    assert str(error) == "the option is given twice (--second-fruit)"


def test_a_list_becomes_a_tuple() -> None:
    assert configure(Basket, {"notes": ["a", "b"]}).notes == ("a", "b")


def test_an_unknown_option_is_refused_with_near_matches_and_all_names() -> None:
    error = refusal(secondfruit="apple")
    assert error.what == "unknown option 'secondfruit'"
    assert error.do.startswith("did you mean 'second-fruit' or 'fruit'? ")
    assert error.do.endswith("known are fruit, second-fruit, weight, handles, halves, share, size, notes, place, full")


def test_an_unknown_option_like_no_other_is_refused_without_a_guess() -> None:
    assert "did you mean" not in str(refusal(zzz=1))


def test_an_unknown_name_is_refused_with_near_matches() -> None:
    expected = "unknown fruit 'appel' (--fruit); did you mean 'apple'? `qcaps list fruits` shows all"
    assert str(refusal(fruit="appel")) == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fruit", None, "unknown fruit 'None' (--fruit)"),
        ("second_fruit", "", "unknown fruit '' (--second-fruit)"),
        ("weight", "heavy", "'heavy': input should be a valid number, unable to parse string as a number (--weight)"),
        ("weight", -0.001, "'-0.001' is below 0 (--weight)"),
        ("weight", 20.5, "'20.5' is above 20 (--weight)"),
        ("weight", float("nan"), "'nan' is not a finite number (--weight)"),
        ("weight", "nan", "'nan' is not a finite number (--weight)"),
        ("weight", "-inf", "'-inf' is not a finite number (--weight)"),
        ("handles", 0, "'0' is below 1 (--handles)"),
        ("handles", "5", "'5' is above 4 (--handles)"),
        ("handles", 1.5, "a valid integer"),
        ("handles", "two", "a valid integer"),
        ("handles", None, "a valid integer"),
        ("halves", 2, "'2' is not a half (--halves)"),
        ("size", "huge", "'huge': input should be 'small' or 'large' (--size)"),
        ("size", ["small"], "'small' or 'large' (--size)"),
        ("notes", "abc", "a valid tuple (--notes)"),
        ("notes", ["a", 3], "'3': input should be a valid string (--notes)"),
        ("place", 5, "(--place)"),
        ("full", "perhaps", "'perhaps': input should be a valid boolean, unable to interpret input (--full)"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_under_its_shell_name(name: str, value: object, message: str) -> None:
    assert message in str(refusal(**{name: value}))


@pytest.mark.parametrize("name", ["fruit", "weight", "handles", "halves", "share", "size", "place"])
@pytest.mark.parametrize("value", [True, False])
def test_a_switch_value_is_never_read_as_a_number_or_a_name(name: str, value: bool) -> None:
    error = refusal(**{name: value})
    assert error.what == f"'{value}' is for switches; this option takes another value"
    assert error.where == f"--{name}"


@pytest.mark.parametrize(("name", "value"), [("weight", 0), ("weight", 20), ("handles", 1), ("handles", 4)])
def test_both_bounds_are_allowed(name: str, value: float) -> None:
    assert getattr(configure(Basket, {name: value}), name) == value


@pytest.mark.parametrize("name", ["handles", "fruit", "size", "weight", "x" * 500])
def test_a_hostile_value_stays_in_one_short_line(name: str) -> None:
    error = refusal(**{name: "1\n::error::\x1b[2J" * 500})
    assert len(error.what) < 200


def test_the_place_of_the_options_stands_before_the_shell_name() -> None:
    with pytest.raises(UsageError) as caught:
        configure(Basket, {"handles": 9}, where="r.yaml:14")
    assert caught.value.where == "r.yaml:14 --handles"
    with pytest.raises(UsageError) as caught:
        configure(Basket, {"handels": 9}, where="r.yaml:14")
    assert caught.value.where == "r.yaml:14"


def test_an_option_knows_what_help_shows() -> None:
    fields = {field.name: field for field in dataclasses.fields(Basket)}
    declared = about(fields["handles"])
    assert (declared.help, declared.least, declared.most) == ("Number of handles.", 1, 4)
    assert about(fields["halves"]).metavar == "X.5"
    assert about(fields["fruit"]).names is FRUITS


def test_a_python_name_is_spelled_with_dashes_on_the_shell() -> None:
    assert shell_name("accuracy_tolerance") == "accuracy-tolerance"
