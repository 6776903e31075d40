"""Coupling importance: capsules are important whose votes the true class listens to."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from qcaps.capsules.em_routing import MatrixCapsules
from qcaps.capsules.layers import ClassCapsules
from qcaps.capsules.matrix_capsules import ClassMatrixCapsules
from qcaps.capsules.sites import hooked
from qcaps.data.images import ImageSet
from qcaps.evaluation.measure import even_blocks
from qcaps.models.network import CapsuleNetwork
from qcaps.models.units import by_unit

# Axes of the class weights: lower capsules, and the dimensions of each.
LOWER, DIMS = 0, 2


def coupling(network: CapsuleNetwork, images: ImageSet) -> dict[str, Tensor]:
    """Average length × coupling to the true class over the images, for the capsules that vote for the classes.

    Parameters
    ----------
    network
        In evaluation mode.
    images
        With their labels.

    Returns
    -------
    dict
        Unit → float64, shape ``(count,)``: types and positions of the lower capsules, the mean of theirs; dimensions,
        the mean of |entry| × coupling. Matrix capsules count with their activations as lengths. Other units are left
        out: nothing couples them to a class.

    Notes
    -----
    Couplings of the last pass, by magnitude, for a bias may make them negative. A mean over all classes would say
    nothing: the couplings of a lower capsule sum to one.
    """
    name, last = list(network.stages.items())[-1]
    if not isinstance(last, ClassCapsules | ClassMatrixCapsules):
        return {}
    watch = _Watch(name)
    device = next(network.parameters()).device
    with torch.inference_mode(), hooked(network, watch.see), last.register_forward_pre_hook(watch.look):
        for positions in torch.arange(len(images)).chunk(even_blocks(network)(images.pixels)):
            network(images.subset(positions).prepared().to(device))
            watch.add(images.labels[positions].to(device))
    found = {}
    for unit in network.units:
        for cut in unit.cuts:
            if cut.tensor == f"{name}.weight":
                mean = watch.totals[cut.axis] / len(images)
                if cut.axis == LOWER:
                    mean = mean.view(-1, last.weight.shape[LOWER]).mean(0)  # matrix weights serve all positions
                found[unit.name] = by_unit(replace(cut, axis=0), unit, mean).mean(1).cpu()
    return found


class _Watch:
    """What the last stage is given, how it couples it, and the sums over the images so far."""

    def __init__(self, stage: str) -> None:
        self.site = f"{stage}.coupling"
        self.totals: dict[int, Tensor] = {}

    def look(self, _layer: nn.Module, given: tuple[Tensor | MatrixCapsules]) -> None:
        """Look at the lower capsules."""
        (lower,) = given
        if isinstance(lower, MatrixCapsules):
            self.entries, self.lengths = lower.poses.flatten(1, 3), lower.activations.flatten(1)
        else:
            self.entries, self.lengths = lower, torch.linalg.vector_norm(lower, dim=2)

    def see(self, site: str, array: Tensor) -> Tensor:
        """Look at an array that passes its site; of several passes the last one stays."""
        if site.split("@", 1)[0] == self.site:
            # Matrix capsules see the lower ones from one position: (batch, 1, out, in).
            self.coupling = array.squeeze(1).transpose(1, 2) if array.dim() == 4 else array  # (batch, in, out)
        return array

    def add(self, labels: Tensor) -> None:
        """Take in the images that were just scored."""
        heard = self.coupling[torch.arange(len(labels)), :, labels].abs().double()  # (batch, in)
        by_capsule = (self.lengths * heard).sum(0)
        by_dim = (self.entries.abs() * heard.unsqueeze(2)).mean(1).sum(0)
        for axis, added in ((LOWER, by_capsule), (DIMS, by_dim)):
            self.totals[axis] = self.totals[axis] + added if axis in self.totals else added
