"""What an augmentation is, and where it comes between the steps of the preparation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from qcaps.data.images import ImageSet
from qcaps.data.preparation import cropped, scaled, standardised
from qcaps.registry import AUGMENTATIONS

Change = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Augmentation:
    """A random change of training images.

    Parameters
    ----------
    change
        Images and the source of all draws → changed images, perhaps smaller.
    standardised
        Whether it changes standardised values, and not pixels in [0, 1].
    """

    change: Change
    standardised: bool = False


def augmentation(name: str) -> Augmentation:
    """Find an augmentation by its registry name.

    Raises
    ------
    UsageError
        If the name is unknown.
    """
    return cast(Augmentation, AUGMENTATIONS.load(name))


def augmented(images: ImageSet, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Prepare training images as `ImageSet.prepared` does, with a random change on the way.

    Resized and divided, then changed and standardised or the other way round, and of what is still larger than the
    network takes the centre: a change that cuts out the right size leaves nothing for that.

    Parameters
    ----------
    images
        A batch.
    augmentation
        The change.
    generator
        Source of all draws.

    Returns
    -------
    Tensor
        float32, shape ``(n, channels, height, width)``.
    """
    preparation = images.preparation
    values = scaled(images.pixels, preparation)
    if augmentation.standardised:
        values = augmentation.change(standardised(values, preparation), generator)
    else:
        values = standardised(augmentation.change(values, generator), preparation)
    return cropped(values, preparation)


def _unchanged(images: Tensor, generator: torch.Generator) -> Tensor:
    """Give the images back as they are."""
    return images


NO_AUGMENTATION = Augmentation(_unchanged)
