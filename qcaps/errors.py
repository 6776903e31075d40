"""The errors and the warning that qcaps raises on purpose.

::

    QcapsError               70  something that should not happen
    ├── UsageError            2  an option, a recipe or the surroundings are wrong; nothing was computed
    │   └── RecipeError       2  everything that is wrong with a recipe, each with its line and key path
    ├── ArtifactError         3  a file is unreadable, damaged or hostile
    ├── InfeasibleError       4  no amount of computing could keep the promise
    ├── DivergedError         1  training came to something that is no number; what was good is saved
    └── StoppedError        130  interrupted; the progress made is saved

    QcapsWarning                 a visible fallback

A broken promise is a result with exit code 1, never an exception.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

VALUE_LIMIT = 80


class QcapsError(Exception):
    """An error told in three parts: what happened, where, and what to do about it.

    Parameters
    ----------
    what
        What happened, without a full stop.
    where
        The file, option or recipe line it happened at.
    do
        What the user can do next.
    """

    exit_code = 70

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.do = do

    def __str__(self) -> str:
        """Tell the three parts in one line that cannot move a cursor or forge a log line."""
        line = self.what
        if self.where:
            line += f" ({self.where})"
        if self.do:
            line += f"; {self.do}"
        return one_line(line)


class UsageError(QcapsError):
    """The request cannot be understood or carried out; found before any computing."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a recipe.

    Parameters
    ----------
    line
        Counted from 1.
    path
        Where in the recipe, for example ``steps[1].flops``; empty for the whole of it.
    message
        What is wrong, and what to do about it.
    source
        What is imported and has that line; nothing for the recipe itself.
    """

    line: int
    path: str
    message: str
    source: str = ""


class RecipeError(UsageError):
    """A recipe cannot be understood; all its problems are told at once.

    Parameters
    ----------
    problems
        At least one; kept in the order of their lines.
    source
        The file or name of the recipe.
    """

    def __init__(self, problems: Iterable[Problem], *, source: str) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.source, problem.line)))
        count = len(self.problems)
        super().__init__(f"{count} problem{'s' if count > 1 else ''} in {source}", where=source)

    def __str__(self) -> str:
        """Tell the source in the first line, and every problem in a line of its own."""
        lines = [f"{self.what}:"]
        for problem in self.problems:
            path = f", {problem.path}" if problem.path else ""
            place = f"{problem.source}, " if problem.source else ""
            lines.append(f"  {place}line {problem.line}{path}: {problem.message}")
        return "\n".join(map(one_line, lines))


class ArtifactError(QcapsError):
    """A file is unreadable, damaged or hostile."""

    exit_code = 3


class InfeasibleError(QcapsError):
    """The promise cannot be kept by arithmetic alone; found before any computing."""

    exit_code = 4


class DivergedError(QcapsError):
    """Training came to a loss or a weight that is no number; the last good state is saved."""

    exit_code = 1


class StoppedError(QcapsError):
    """The user interrupted the work; what was finished is saved."""

    exit_code = 130


class QcapsWarning(UserWarning):
    """Something was done differently from what was asked, and the result says so."""


def quoted(value: object) -> str:
    """Quote a value of unknown origin for a message: one line, at most 80 characters."""
    return f"'{shortened(str(value))}'"


def shortened(text: str) -> str:
    """Bring text of unknown origin to one line of at most 80 characters."""
    text = one_line(text)
    return text if len(text) <= VALUE_LIMIT else text[: VALUE_LIMIT - 1] + "…"


def one_line(text: str) -> str:
    """Replace every character that controls, breaks lines or means nothing by a visible space."""
    return "".join(" " if unicodedata.category(c) in {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"} else c for c in text)
