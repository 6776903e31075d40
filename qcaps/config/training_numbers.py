"""Numbers of a training run as people type them: milestones, numbers of the optimizer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qcaps.config.model_numbers import model_numbers
from qcaps.config.search_numbers import items
from qcaps.errors import UsageError, quoted

LARGEST_EPOCH, LARGEST_NUMBER = 10**6, 1e12


def parse_milestones(value: object) -> tuple[int, ...]:
    """Read ``30,60``, or a list of numbers or such texts, as ascending epochs from 1 on.

    Raises
    ------
    ValueError
        If it holds anything else.
    """
    parts = [part for item in items(value) for part in str(item).split(",")]
    if not all(re.fullmatch(r"\s*\d{1,7}\s*", part) and 1 <= int(part) <= LARGEST_EPOCH for part in parts):
        raise ValueError(f"{quoted(value)} is not a list of epochs such as 30,60")
    return tuple(sorted({int(part) for part in parts}))


def optimizer_numbers(pairs: Sequence[str]) -> dict[str, object]:
    """Read ``KEY=VALUE`` pairs whose values are numbers, switches or lists of numbers.

    Raises
    ------
    UsageError
        If a pair is something else.
    """
    numbers = model_numbers(pairs, where="--optimizer-arg")
    for name, value in numbers.items():
        each = value if isinstance(value, list) and value else [value]
        if not all(isinstance(one, int | float) and abs(one) < LARGEST_NUMBER for one in each):
            raise UsageError(
                f"{name} is {quoted(value)}, not a number, true, false or a list of numbers",
                where="--optimizer-arg",
            )
    return {name: tuple(value) if isinstance(value, list) else value for name, value in numbers.items()}
