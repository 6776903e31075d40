"""Taylor importance: how much the loss would change, to first order, if a unit fell silent."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from qcaps.capsules.losses import class_loss
from qcaps.capsules.sites import hooked
from qcaps.data.images import ImageSet
from qcaps.evaluation.measure import even_blocks
from qcaps.models.network import CapsuleNetwork
from qcaps.models.units import Cut, Unit, by_unit

# The units that an array holds, each with how.
Held = Sequence[tuple[Unit, Cut]]


def taylor(network: CapsuleNetwork, images: ImageSet) -> dict[str, Tensor]:
    """Estimate the change of the loss that the network is trained with for every unit, image by image.

    Parameters
    ----------
    network
        In evaluation mode; no gradient is left in it.
    images
        A few hundred, with their labels.

    Returns
    -------
    dict
        Unit → float64, shape ``(count,)``. Of capsules, the mean over the images of |Σ activation · gradient|; of
        channels, that of (Σ weight · gradient)², summed over all that makes the channel: weights and biases of every
        convolution of its group, scales and shifts of the norms behind them.

    Notes
    -----
    The product of an image's gradient with the weights of a layer is that of its outputs with theirs, so that all
    images of a block are told apart in one backward pass.

    References
    ----------
    Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019, section 3.
    """
    totals = {unit: torch.zeros(unit.count, dtype=torch.float64) for unit in network.units}
    device = next(network.parameters()).device
    for positions in torch.arange(len(images)).chunk(even_blocks(network)(images.pixels)):
        block = images.subset(positions)
        slopes = _slopes(network, block.prepared().to(device), block.labels.to(device))
        for unit, by_image in slopes.items():
            each = by_image.double().cpu()  # (count, batch)
            totals[unit] += (each.abs() if unit.arrays else each.square()).sum(1)
    return {unit.name: total / len(images) for unit, total in totals.items()}


def _slopes(network: CapsuleNetwork, pixels: Tensor, labels: Tensor) -> dict[Unit, Tensor]:
    """Differentiate the loss of every image by a factor on all that makes a unit: shape ``(count, batch)`` each."""
    found: dict[Unit, Tensor] = {}

    def follow(array: Tensor, held: Held) -> None:
        value = array.detach().clone()  # what follows may work in place

        def note(gradient: Tensor) -> None:
            for unit, cut in held:
                by_entry = (value * gradient).movedim(cut.axis, 1).flatten(2).sum(2)  # (batch, entries)
                slope = by_unit(Cut(cut.tensor, 1, cut.inner), unit, by_entry).sum(1)
                found[unit] = found[unit] + slope if unit in found else slope

        array.register_hook(note)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def at_site(site: str, array: Tensor) -> Tensor:
        if site in sites:
            follow(array, sites[site])
        return array

    sites, layers = _places(network)
    with torch.enable_grad(), hooked(network, at_site), ExitStack() as hooks:
        for path, held in layers.items():
            layer = network.stages.get_submodule(path)
            hooks.enter_context(layer.register_forward_hook(lambda _layer, _given, out, held=held: follow(out, held)))
        # Only the pixels need a gradient for all arrays behind them to have one; parameters may stay frozen.
        pixels = pixels.requires_grad_()
        torch.autograd.grad(class_loss(network.loss, network(pixels).scores, labels).sum(), pixels)
    return found


def _places(network: CapsuleNetwork) -> tuple[dict[str, Held], dict[str, Held]]:
    """Find where units are seen: capsules at sites, channels behind every layer that makes them."""
    sites: dict[str, list[tuple[Unit, Cut]]] = {}
    layers: dict[str, list[tuple[Unit, Cut]]] = {}
    for unit in network.units:
        for cut in unit.arrays:
            sites.setdefault(cut.tensor, []).append((unit, cut))
        if not unit.arrays:
            makers = {cut.tensor.rsplit(".", 1)[0]: Cut(cut.tensor, 1, cut.inner) for cut in unit.cuts if cut.axis == 0}
            for path, cut in makers.items():
                layers.setdefault(path, []).append((unit, cut))
    return dict(sites), dict(layers)
