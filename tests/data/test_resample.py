from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from qcaps.data.resample import lanczos3_matrix


def resize_by_pillow(row: np.ndarray, size: int) -> list[float]:
    """Resize one row of floats with the Lanczos filter of another library."""
    image = Image.fromarray(row[None, :].astype(np.float32))
    return np.asarray(image.resize((size, 1), Image.Resampling.LANCZOS))[0].tolist()


@pytest.mark.parametrize("size_out", [*range(21, 29), 5, 40])
def test_the_matrix_resizes_as_pillow_does(size_out: int) -> None:
    row = np.random.default_rng(size_out).random(28)

    resized = torch.from_numpy(row) @ lanczos3_matrix(28, size_out)

    assert resized.tolist() == pytest.approx(resize_by_pillow(row, size_out), abs=1e-6)


def test_an_even_row_stays_even() -> None:
    assert lanczos3_matrix(28, 23).sum(dim=0).tolist() == pytest.approx([1.0] * 23, abs=1e-12)


def test_the_same_size_is_the_identity() -> None:
    assert torch.allclose(lanczos3_matrix(28, 28), torch.eye(28, dtype=torch.float64), atol=1e-12)
