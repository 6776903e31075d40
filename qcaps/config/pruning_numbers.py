"""Numbers of a pruning as people type them: what may go of some units, and what stays."""

from __future__ import annotations

import re

from qcaps.config.search_numbers import items

PATTERN = r"\s*(?:([^=\s]{1,80})\s*=\s*)?"


def parse_caps(value: object) -> tuple[tuple[str, float], ...]:
    """Read ``conv1.*=0.5``, or ``0.5`` for all units, or a list of such texts, as pairs of pattern and share.

    A share has four decimals at most.

    Raises
    ------
    ValueError
        If one of them is something else.
    """
    found = []
    for item in items(value):
        match = re.fullmatch(PATTERN + r"(\d?\.\d{1,4}|[01])\s*", str(item))
        if match is None or float(match[2]) > 1:
            raise ValueError(f"'{str(item)[:40]}' is not a pattern and a share from 0 to 1 such as conv1.*=0.5")
        found.append((match[1] or "*", float(match[2])))
    return tuple(found)


def parse_floors(value: object) -> tuple[tuple[str, int], ...]:
    """Read ``primary.types=4``, or ``4`` for all units, or a list of such texts, as pairs of pattern and number.

    Raises
    ------
    ValueError
        If one of them is something else.
    """
    found = []
    for item in items(value):
        match = re.fullmatch(PATTERN + r"(\d{1,6})\s*", str(item))
        if match is None or int(match[2]) < 1:
            raise ValueError(f"'{str(item)[:40]}' is not a pattern and a number of units such as primary.types=4")
        found.append((match[1] or "*", int(match[2])))
    return tuple(found)
