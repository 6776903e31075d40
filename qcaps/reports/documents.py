"""Documents as text: one way to write JSON, the same bytes for the same content."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


def json_text(document: Mapping[str, object]) -> str:
    """Write plain data as JSON: sorted keys, two spaces, finite numbers (others become null), one final newline."""
    return json.dumps(_finite(document), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
