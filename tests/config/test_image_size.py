from __future__ import annotations

import pytest

from qcaps.config import TrainConfig, configure
from qcaps.config.image_size import parse_image_size
from qcaps.errors import UsageError


@pytest.mark.parametrize(
    ("typed", "size"),
    [("32", (32, 32)), (32, (32, 32)), ("32x48", (32, 48)), ("1x1024", (1, 1024)), ((32, 48), (32, 48))],
)
def test_a_size_is_a_side_or_height_and_width(typed: object, size: tuple[int, int]) -> None:
    assert parse_image_size(typed) == size


@pytest.mark.parametrize("typed", ["", "0", "32x", "x32", "32x48x3", "1025", "-32", "32.0", "٣٢", "99999", True])
def test_anything_else_is_refused(typed: object) -> None:
    with pytest.raises(UsageError, match="--image-size"):
        configure(TrainConfig, {"image_size": typed})


def test_a_config_holds_height_and_width() -> None:
    assert configure(TrainConfig, {"image-size": "32x48"}).image_size == (32, 48)
