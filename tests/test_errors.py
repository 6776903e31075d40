from __future__ import annotations

import inspect
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcaps import errors
from qcaps.errors import (
    ArtifactError,
    DivergedError,
    InfeasibleError,
    Problem,
    QcapsError,
    QcapsWarning,
    RecipeError,
    StoppedError,
    UsageError,
    one_line,
    quoted,
    shortened,
)

HOSTILE = "a\nb\r\x1b[2J\u2028\u202e\x00\x85c"


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (QcapsError, 70),
        (UsageError, 2),
        (RecipeError, 2),
        (ArtifactError, 3),
        (InfeasibleError, 4),
        (DivergedError, 1),
        (StoppedError, 130),
    ],
)
def test_every_error_has_its_exit_code(kind: type[QcapsError], exit_code: int) -> None:
    assert issubclass(kind, QcapsError)
    assert kind.exit_code == exit_code


def test_the_tree_in_the_docstring_draws_every_class_with_its_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, QcapsError)]
    drawn = re.findall(r"(\w+Error) +(\d+)  ", errors.__doc__ or "")
    assert sorted(drawn) == sorted((kind.__name__, str(kind.exit_code)) for kind in kinds)


@pytest.mark.parametrize(
    ("where", "do", "line"),
    [
        ("", "", "it broke"),
        ("a.pt", "", "it broke (a.pt)"),
        ("", "mend it", "it broke; mend it"),
        ("a.pt", "mend it", "it broke (a.pt); mend it"),
    ],
)
def test_an_error_is_told_in_three_parts(where: str, do: str, line: str) -> None:
    error = ArtifactError("it broke", where=where, do=do)
    assert str(error) == line
    assert (error.what, error.where, error.do) == ("it broke", where, do)


def test_no_part_can_leave_its_line() -> None:
    assert str(QcapsError(HOSTILE, where=HOSTILE, do=HOSTILE)).isprintable()


def test_the_problems_of_a_recipe_are_told_in_the_order_of_their_lines() -> None:
    problems = [Problem(9, "steps[1].lr", "is below 0"), Problem(2, "", "unknown key"), Problem(9, "", "second")]
    error = RecipeError(iter(problems), source="r.yaml")
    assert str(error).splitlines() == [
        "3 problems in r.yaml:",
        "  line 2: unknown key",
        "  line 9, steps[1].lr: is below 0",
        "  line 9: second",
    ]
    assert error.where == "r.yaml"


def test_one_problem_is_told_in_the_singular() -> None:
    assert str(RecipeError([Problem(1, "a", "b")], source="r")).startswith("1 problem in r:")


def test_a_problem_cannot_forge_another_line() -> None:
    error = RecipeError([Problem(1, HOSTILE, HOSTILE)], source=HOSTILE)
    assert len(str(error).splitlines()) == 2
    assert all(line.isprintable() for line in str(error).splitlines())


INVISIBLE = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}


@given(st.text())
def test_one_line_keeps_every_character_that_can_be_seen(text: str) -> None:
    found = one_line(text)
    assert len(found) == len(text)
    assert len(found.splitlines()) <= 1
    for before, after in zip(text, found, strict=True):
        assert after == before or (after == " " and unicodedata.category(before) in INVISIBLE)
    assert not any(unicodedata.category(character) in INVISIBLE for character in found)


@given(st.text(max_size=300))
def test_shortened_text_has_at_most_80_characters(text: str) -> None:
    found = shortened(text)
    assert len(found) <= 80
    assert found == one_line(text) if len(text) <= 80 else found == one_line(text)[:79] + "…"


@pytest.mark.parametrize(
    ("value", "shown"), [("a b", "'a b'"), (3, "'3'"), (None, "'None'"), ("a\nb", "'a b'"), ("", "''")]
)
def test_a_value_is_quoted(value: object, shown: str) -> None:
    assert quoted(value) == shown


def test_a_long_value_is_cut_inside_its_quotes() -> None:
    assert quoted("x" * 81) == f"'{'x' * 79}…'"
    assert quoted("x" * 80) == f"'{'x' * 80}'"


def test_a_warning_of_ours_is_a_warning_for_users() -> None:
    assert issubclass(QcapsWarning, UserWarning)
