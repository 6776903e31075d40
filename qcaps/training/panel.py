"""A fixed panel of validation images and their reconstructions, to see a network learn to draw."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcaps.data.images import ImageSet
from qcaps.models.network import CapsuleNetwork, predictions

PER_CLASS, MOST_IMAGES = 2, 40


@dataclass(frozen=True, eq=False)
class Panel:
    """Images as the network sees them and what it draws of them, shape ``(n, channels, height, width)`` each."""

    images: Tensor
    reconstructions: Tensor


def panel_images(images: ImageSet) -> ImageSet:
    """Take the first two images of every class, up to forty in all, class by class."""
    firsts = [(images.labels == label).nonzero().flatten()[:PER_CLASS] for label in range(len(images.class_names))]
    return images.subset(torch.cat(firsts)[:MOST_IMAGES])


def draw_panel(network: CapsuleNetwork, images: ImageSet) -> Panel:
    """Reconstruct images from the longest capsule, as a trained network does.

    Parameters
    ----------
    network
        With a decoder, in evaluation mode.
    images
        All fit into one batch.
    """
    shown = images.prepared()
    with torch.inference_mode():
        output = network(shown.to(next(network.parameters()).device))
        drawn = network.reconstruct(output.capsules, predictions(output))
    return Panel(shown, drawn.float().cpu())
