"""Numbers of a network, as people type them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from qcaps.errors import UsageError, quoted


def model_numbers(pairs: Sequence[str], *, where: str = "--model-arg") -> dict[str, object]:
    """Read ``KEY=VALUE`` pairs: values are JSON, and what is not JSON is a name.

    Raises
    ------
    UsageError
        If a pair has no equals sign.
    """
    numbers: dict[str, object] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"{quoted(pair)} is not KEY=VALUE", where=where)
        numbers[name.strip().replace("-", "_")] = _value(text)
    return numbers


def _value(text: str) -> object:
    """Read a JSON value: no aliases that grow, and 1e-20 is a number; what is not JSON is a name."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip()
