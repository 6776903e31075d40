from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from qcaps.data.preparation import PLAIN, Preparation, prepare


@pytest.mark.parametrize("divisor", [255, 256])
def test_a_divided_pixel_is_the_nearest_float32_to_the_exact_quotient(divisor: int) -> None:
    values = prepare(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16), Preparation(divisor))

    assert values.dtype == torch.float32
    assert values.shape == (1, 1, 16, 16)
    for pixel, value in enumerate(values.flatten()):
        exact = Fraction(pixel, divisor)
        error = abs(Fraction(value.item()) - exact)
        below, above = (torch.nextafter(value, torch.tensor(end)).item() for end in (-1.0, 2.0))
        assert error <= abs(Fraction(below) - exact)
        assert error <= abs(Fraction(above) - exact)


def test_preparing_leaves_the_pixels_alone() -> None:
    pixels = torch.full((1, 1, 2, 2), 200, dtype=torch.uint8)

    prepare(pixels, PLAIN)

    assert pixels.flatten().tolist() == [200] * 4
