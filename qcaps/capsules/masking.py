"""Masking: keep one class capsule before the decoder."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

MaskLayout = Literal["zeros", "select"]


def mask_capsules(capsules: Tensor, kept: Tensor, layout: MaskLayout) -> Tensor:
    """Keep one class capsule of each image.

    Parameters
    ----------
    capsules
        Class capsules, shape ``(batch, classes, dim)``.
    kept
        Class to keep, shape ``(batch,)``: the label in training, the longest capsule otherwise.
    layout
        ``zeros`` sets the others to zero and flattens class by class; ``select`` gives the kept one alone.

    Returns
    -------
    Tensor
        Shape ``(batch, classes·dim)`` for ``zeros``, ``(batch, dim)`` for ``select``.

    References
    ----------
    Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules", 2017, section 4.1.
    """
    if layout == "select":
        return capsules[torch.arange(len(capsules), device=capsules.device), kept]
    one_hot = torch.nn.functional.one_hot(kept, capsules.shape[1]).to(capsules.dtype)
    return (capsules * one_hot.unsqueeze(2)).flatten(1)
