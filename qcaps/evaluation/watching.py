"""Watch the arrays of a forward pass as they leave their sites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qcaps.capsules.sites import Hook, hooked
from qcaps.evaluation.measure import Predict, in_blocks
from qcaps.models.network import CapsuleNetwork, predictions


def watched(
    network: CapsuleNetwork, see: Callable[[str, Tensor], None], hook_of: Callable[[Tensor], Hook] | None = None
) -> Predict:
    """Make a candidate that shows every array to someone, for :func:`~qcaps.evaluation.measure.measure`.

    Parameters
    ----------
    network
        In inference form.
    see
        Given the site and the array.
    hook_of
        Indices of the images → what their arrays pass before they are seen, to be rounded for example; None for
        nothing.
    """

    def predict(pixels: Tensor, indices: Tensor) -> Tensor:
        before = None if hook_of is None else hook_of(indices)

        def show(site: str, array: Tensor) -> Tensor:
            array = array if before is None else before(site, array)
            see(site, array)
            return array

        with hooked(network, show):
            return predictions(network(pixels))

    return in_blocks(network, predict)


@dataclass
class RangeWatch:
    """The smallest and the largest value seen at every site."""

    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    def see(self, site: str, array: Tensor) -> None:
        """Look at an array that passes its site."""
        low, high = (float(end) for end in torch.aminmax(array))
        known = self.ranges.get(site, (low, high))
        self.ranges[site] = min(low, known[0]), max(high, known[1])
