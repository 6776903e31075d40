"""Numbers of a search as people type them: widths, pins, times."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

WIDEST = 16
FLOAT32 = 32
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def parse_widths(value: object) -> tuple[int, ...]:
    """Read ``2,4,8``, or a list of numbers or such texts, as ascending widths from 1 to 16.

    Raises
    ------
    ValueError
        If it holds anything else.
    """
    parts = [part for item in items(value) for part in str(item).split(",")]
    if not all(re.fullmatch(r"\s*\d{1,2}\s*", part) and 1 <= int(part) <= WIDEST for part in parts):
        raise ValueError(f"'{str(value)[:40]}' is not a list of widths from 1 to {WIDEST} such as 2,4,8")
    return tuple(sorted({int(part) for part in parts}))


def parse_pins(value: object) -> tuple[tuple[str, int], ...]:
    """Read ``conv1.*=8``, or a list of such texts, as pairs of pattern and width, 1 to 16 or 32.

    Raises
    ------
    ValueError
        If one of them is something else.
    """
    found = []
    for item in items(value):
        match = re.fullmatch(r"\s*([^=\s]{1,80})\s*=\s*(\d{1,2})\s*", str(item))
        if match is None or not (1 <= int(match[2]) <= WIDEST or int(match[2]) == FLOAT32):
            raise ValueError(f"'{str(item)[:40]}' is not a pattern and a width from 1 to {WIDEST}, or 32 for float")
        found.append((match[1], int(match[2])))
    return tuple(found)


def parse_seconds(value: object) -> float:
    """Read ``90``, ``90s``, ``10m`` or ``1.5h`` as seconds.

    Raises
    ------
    ValueError
        If it is no positive time.
    """
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([smh]?)\s*", str(value))
    seconds = float(match[1]) * UNITS[match[2]] if match else math.nan
    if not seconds > 0:
        raise ValueError(f"'{str(value)[:40]}' is not a time such as 90s, 10m or 1.5h")
    return seconds


def items(value: object) -> Sequence[object]:
    """Take a list for what it holds, and anything else for one item."""
    return value if isinstance(value, list | tuple) else [value]
