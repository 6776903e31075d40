"""A look at routing while it works: how evenly capsules are coupled, and how many logits are 0."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qcaps.capsules.sites import role_of


@dataclass
class Mean:
    """A mean under way."""

    total: float = 0.0
    count: int = 0

    def add(self, values: Tensor) -> None:
        """Take more values in."""
        self.total += float(values.double().sum())
        self.count += values.numel()

    @property
    def value(self) -> float:
        """Give the mean so far."""
        return self.total / self.count


@dataclass
class RoutingWatch:
    """What was seen at the sites of a routing, by full site name, iterations apart.

    Parameters
    ----------
    entropy
        Of the coupling coefficients of a lower capsule, as :func:`evenness` has it.
    zero_logits
        Share of logits that are 0.
    """

    entropy: dict[str, Mean] = field(default_factory=dict)
    zero_logits: dict[str, Mean] = field(default_factory=dict)

    def see(self, site: str, array: Tensor) -> None:
        """Look at an array that passes its site; a coupling with nobody to share with tells nothing."""
        role = role_of(site)
        if role == "logits":
            self.zero_logits.setdefault(site, Mean()).add(array == 0)
        elif role == "coupling" and array.dim() > 2 and array.shape[2] > 1:
            self.entropy.setdefault(site, Mean()).add(evenness(array))


def evenness(coupling: Tensor) -> Tensor:
    """Give the entropy of every lower capsule's coupling to the upper ones: 0 if one has all, 1 if all have the same.

    Parameters
    ----------
    coupling
        Shape ``(batch, n_in, n_out)``, or ``(batch, positions, n_out, n_in)``, where upper capsules are compared
        position by position. Magnitudes are taken as shares, for rounded or biased coefficients need not sum to 1.

    Returns
    -------
    Tensor
        Shape of `coupling` without ``n_out``. A capsule that is coupled to nobody has 0.
    """
    magnitudes = coupling.abs()
    shares = magnitudes / magnitudes.sum(2, keepdim=True).clamp_min(torch.finfo(coupling.dtype).tiny)
    entropy: Tensor = torch.special.entr(shares).sum(2)
    return entropy / math.log(coupling.shape[2])
