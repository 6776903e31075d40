"""What every width of every group costs and harms, as options for the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcaps.quantization.formats import Float32
from qcaps.quantization.search.front import Front, Option, pareto_front
from qcaps.quantization.search.groups import Group, Widths
from qcaps.quantization.search.sensitivity import Scores
from qcaps.quantization.search.subject import Subject

# Fronts count in eighths of a byte, so that every width of every array has a whole cost.
PARTS = 8


@dataclass(frozen=True, eq=False)
class Prices:
    """Payload, activation bytes and damage of every width of every group.

    Parameters
    ----------
    subject, groups
        What is priced.
    widths
        Group name → the widths it may have.
    scores
        Group name → width → predicted damage.
    """

    subject: Subject
    groups: tuple[Group, ...]
    widths: Mapping[str, Sequence[int]]
    scores: Scores

    def price(self, group: Group, bits: int) -> float:
        """Give the bytes of a weight, or of an array for one image."""
        if group.is_weight:
            return sum(self.subject.weight_bytes(site, bits) for site in group.sites)
        return group.values * bits / 8

    def front(self, groups: Sequence[Group], activation_weight: float) -> Front:
        """Find the front of some groups, a byte of activations at a price of its own."""

        def options(group: Group) -> list[Option]:
            weight = 1.0 if group.is_weight else activation_weight
            scores = self.scores[group.name]
            return [
                Option(bits, round(PARTS * weight * self.price(group, bits)), scores[bits])
                for bits in self.widths[group.name]
            ]

        return pareto_front({group.name: options(group) for group in groups})

    def totals(self, front: Front) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sum payload and activation bytes of every point of a front, exactly; groups that it lacks count nothing."""
        payload = np.full(len(front), float(self.subject.float_leftovers))
        widest: dict[str, NDArray[np.float64]] = {}
        by_name = {group.name: group for group in self.groups}
        for column, name in enumerate(front.names):
            group, bits = by_name[name], front.bits[:, column]
            if group.is_weight:
                table = np.zeros(Float32.bits + 1)
                for width in self.widths[name]:
                    table[width] = self.price(group, width)
                payload += table[bits]
                continue
            array, values = name.split("@", 1)[0], float(self.subject.calibration.arrays[group.sites[0]].values)
            widest[array] = np.maximum(widest.get(array, 0.0), values * bits / 8)
        return payload, sum(widest.values(), start=np.zeros(len(front)))

    def spread(self, choice: Mapping[str, int]) -> Widths:
        """Give every site the width of its group."""
        return {site: choice[group.name] for group in self.groups for site in group.sites}
