"""Masking: choose the class capsules that the decoder sees."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import one_hot

MaskLayout = Literal["zeros", "select", "unmasked"]


def longest(scores: Tensor, count: int) -> Tensor:
    """List the classes of the largest scores, best first; of equal ones the lowest class first.

    Parameters
    ----------
    scores
        Shape ``(batch, classes)``.
    count
        Classes to list of each image: 1 for the prediction, 2 for two overlapping digits.

    Returns
    -------
    Tensor
        Shape ``(batch, count)``.
    """
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :count]


def mask_capsules(capsules: Tensor, kept: Tensor, layout: MaskLayout) -> Tensor:
    """Keep one class capsule of each image, or several apart from each other.

    Parameters
    ----------
    capsules
        Class capsules, shape ``(batch, classes, dim)``.
    kept
        Class to keep, shape ``(batch,)``: the label in training, the longest capsule otherwise. Shape ``(batch, k)``
        gives k masked copies of each image.
    layout
        ``zeros`` sets the others to zero and flattens class by class; ``select`` gives the kept one alone;
        ``unmasked`` gives all of them, whatever is kept.

    Returns
    -------
    Tensor
        Shape ``(batch, classes·dim)``, for ``select`` ``(batch, dim)``; with k kept classes ``(batch, k, ...)``.

    References
    ----------
    Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules", 2017, sections 4.1 and 6.
    """
    batch, classes, dim = capsules.shape
    copies = kept.reshape(batch, kept.shape[1] if kept.ndim == 2 else 1)
    if layout == "select":
        masked = capsules.gather(1, copies.unsqueeze(2).expand(-1, -1, dim))
    else:
        masked = capsules.unsqueeze(1).expand(-1, copies.shape[1], -1, -1)  # (batch, k, classes, dim)
        if layout == "zeros":
            masked = masked * one_hot(copies, classes).to(capsules.dtype).unsqueeze(3)
        masked = masked.flatten(2)
    return masked if kept.ndim == 2 else masked.squeeze(1)
