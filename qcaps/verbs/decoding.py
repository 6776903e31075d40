"""Which decoder draws images from the capsules of a network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from qcaps.artifacts.bundled import find_checkpoint
from qcaps.artifacts.checkpoint import read_checkpoint
from qcaps.errors import UsageError
from qcaps.models.network import CapsuleNetwork
from qcaps.models.spec import ModelSpec, image_of
from qcaps.reports.pictures import Draw


def decoder_for(network: CapsuleNetwork, model: ModelSpec, decoder_from: Path | None) -> Draw | None:
    """Give what draws images from class capsules: the decoder of another checkpoint, or the network's own.

    Parameters
    ----------
    network, model
        Whose capsules are drawn.
    decoder_from
        The other checkpoint; None for none.

    Raises
    ------
    UsageError
        If the other checkpoint has no decoder, or it draws other images or takes other capsules.
    ArtifactError
        If it is unreadable.
    """
    if decoder_from is None:
        return None if network.decoder is None else drawing(network)
    other = read_checkpoint(find_checkpoint(decoder_from))[0]
    found = other.network(where=str(decoder_from))
    if found.decoder is None:
        raise UsageError("this checkpoint has no decoder", where=f"--decoder-from {decoder_from}")
    if image_of(other.model) != image_of(model) or _capsules(found, other.model) != _capsules(network, model):
        raise UsageError(
            "its decoder takes other capsules or draws other images",
            where=f"--decoder-from {decoder_from}",
            do="name a checkpoint of the same classes, capsule dimensions and image size",
        )
    return drawing(found)


def drawing(network: CapsuleNetwork) -> Draw:
    """Make what draws images with the decoder of a network, on its device."""
    device = next(network.parameters()).device

    def draw(capsules: Tensor, kept: Tensor) -> Tensor:
        with torch.inference_mode():
            return network.reconstruct(capsules.to(device), kept.to(device)).float().cpu()

    return draw


def _capsules(network: CapsuleNetwork, model: ModelSpec) -> tuple[int, ...]:
    """Give number and dimension of the class capsules."""
    with torch.inference_mode():
        device = next(network.parameters()).device
        return tuple(network(torch.zeros(1, *image_of(model), device=device)).capsules.shape[1:])
