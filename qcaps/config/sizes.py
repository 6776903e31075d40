"""Sizes in bytes, as people type and read them."""

from __future__ import annotations

import re
from decimal import Decimal

UNITS = {
    "": 1_000_000,
    "b": 1,
    "kb": 1_000,
    "mb": 1_000_000,
    "gb": 1_000_000_000,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}


def parse_size(value: object) -> int:
    """Turn ``0.2``, ``200kB`` or ``1.5 MiB`` into bytes, rounded down; a bare number means MB = 1,000,000 bytes.

    Raises
    ------
    ValueError
        If the text is no positive size.
    """
    match = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,12})?(?:[eE][+-]?\d{1,2})?)\s*([a-zA-Z]{0,3})\s*", str(value))
    if match is None or match[2].lower() not in UNITS:
        raise ValueError(f"'{str(value)[:40]}' is not a size such as 0.2, 200kB or 1.5MiB")
    size = int(Decimal(match[1]) * UNITS[match[2].lower()])
    if size < 1:
        raise ValueError(f"'{str(value)[:40]}' is less than one byte")
    return size


def format_size(size_bytes: int) -> str:
    """Write bytes with three decimals of the fitting decimal unit: ``121.304 kB``."""
    if size_bytes < 1_000:
        return f"{size_bytes} B"
    if size_bytes < 1_000_000:
        return f"{size_bytes / 1_000:.3f} kB"
    return f"{size_bytes / 1_000_000:.3f} MB"
