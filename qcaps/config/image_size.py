"""The size of images, as typed."""

from __future__ import annotations

import re


def parse_image_size(value: object) -> tuple[int, int]:
    """Read ``32`` or ``32x48`` as height and width in pixels, 1 to 1024.

    Raises
    ------
    ValueError
        With the reason.
    """
    if isinstance(value, tuple | list):
        value = "x".join(map(str, value))
    found = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", str(value), re.ASCII)
    height, width = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not (1 <= height <= 1024 and 1 <= width <= 1024):
        raise ValueError(f"{str(value)[:40]!r} is no size; type 32, or 32x48 for height and width")
    return height, width
