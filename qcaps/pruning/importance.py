"""Importance of the units of a network, by several criteria; more is more important."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qcaps.data.images import ImageSet
from qcaps.errors import QcapsError
from qcaps.models.network import CapsuleNetwork
from qcaps.pruning.coupling import coupling
from qcaps.pruning.magnitude import magnitude
from qcaps.pruning.taylor import taylor

Criterion = Literal["l1", "l2", "taylor", "coupling", "random"]
# What the others judge by is in the network itself.
JUDGED_ON_IMAGES: tuple[Criterion, ...] = ("taylor", "coupling")


@dataclass(frozen=True, eq=False)
class Importance:
    """Importance of all units.

    Parameters
    ----------
    scores
        Unit → float64, shape ``(count,)``; to be compared within a unit only.
    by_l1
        Units that the criterion says nothing of, judged by their weights instead.
    """

    scores: Mapping[str, Tensor]
    by_l1: tuple[str, ...] = ()


def importance(
    criterion: Criterion, network: CapsuleNetwork, images: ImageSet | None = None, *, seed: int = 0
) -> Importance:
    """Judge every unit of a network.

    Parameters
    ----------
    criterion
        ``l1``, ``l2``: magnitude of the weights, see :mod:`qcaps.pruning.magnitude`; ``taylor``: see
        :mod:`qcaps.pruning.taylor`; ``coupling``: see :mod:`qcaps.pruning.coupling`, for capsules that vote for the
        classes, and ``l1`` for all others; ``random``: the baseline.
    network
        In evaluation mode; left as it is.
    images
        Training images to judge units on; needed by ``taylor`` and ``coupling``.
    seed
        Of ``random``. The draws of a unit follow from seed and name, whatever else the network has.

    Raises
    ------
    ValueError
        If a criterion needs images and there are none.
    QcapsError
        If an importance is not a number.
    """
    scores = _scores(criterion, network, images, seed)
    left = tuple(unit.name for unit in network.units if unit.name not in scores)
    if left:
        by_l1 = magnitude(network, 1)
        scores = {unit.name: (by_l1 if unit.name in left else scores)[unit.name] for unit in network.units}
    odd = [name for name, each in scores.items() if not each.isfinite().all()]
    if odd:
        raise QcapsError(f"the {criterion} importance of {odd[0]} is not a number", do="judge by l1")
    return Importance(scores, left)


def _scores(criterion: Criterion, network: CapsuleNetwork, images: ImageSet | None, seed: int) -> dict[str, Tensor]:
    if criterion == "random":
        return {unit.name: _draws(f"{seed} {unit.name}", unit.count) for unit in network.units}
    if criterion in ("l1", "l2"):
        return magnitude(network, 1 if criterion == "l1" else 2)
    if images is None:
        raise ValueError(f"{criterion} judges units on images")
    judge = taylor if criterion == "taylor" else coupling
    return judge(network, images)


def _draws(key: str, count: int) -> Tensor:
    """Draw numbers from 0 to 1 that follow from a text alone."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "little")
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
