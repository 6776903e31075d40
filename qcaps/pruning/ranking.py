"""Ranking: which units stay when so many of them do."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qcaps.pruning.strategy import Kept


def kept_units(scores: Mapping[str, Tensor], widths: Mapping[str, int]) -> Kept:
    """Keep the most important units.

    Parameters
    ----------
    scores
        Unit → importance, shape ``(count,)``.
    widths
        Unit → how many stay.

    Returns
    -------
    dict
        For every unit in `widths`; among equals the lowest indices stay.
    """
    return {name: _largest(scores[name], width) for name, width in widths.items()}


def _largest(scores: Tensor, width: int) -> tuple[int, ...]:
    order = torch.argsort(scores, descending=True, stable=True)
    return tuple(sorted(order[:width].tolist()))
