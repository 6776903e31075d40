"""Antialiased Lanczos resampling of one axis as a matrix."""

from __future__ import annotations

import torch
from torch import Tensor

LOBES = 3


def lanczos3_matrix(size_in: int, size_out: int) -> Tensor:
    """Give the matrix that resizes an axis with a Lanczos window of three lobes.

    Pixels have half-pixel centres. When shrinking, the window is widened by ``size_in / size_out``, so that
    it also removes what the smaller axis cannot show. Near the border the weights of the pixels inside are
    scaled to sum to one.

    Parameters
    ----------
    size_in, size_out
        Pixels before and after.

    Returns
    -------
    Tensor
        float64, shape ``(size_in, size_out)``, to multiply from the right; every column sums to 1.

    References
    ----------
    Turkowski, "Filters for Common Resampling Tasks", Graphics Gems, 1990.
    """
    widening = max(size_in / size_out, 1.0)
    centres = (torch.arange(size_out, dtype=torch.float64) + 0.5) * (size_in / size_out)
    pixels = torch.arange(size_in, dtype=torch.float64) + 0.5
    distance = (pixels[:, None] - centres[None, :]) / widening  # (size_in, size_out)
    weights = torch.sinc(distance) * torch.sinc(distance / LOBES) * (distance.abs() < LOBES)
    return weights / weights.sum(dim=0)
